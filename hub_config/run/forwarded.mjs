// Who sends a request, and by which scheme. Hub, service and people's servers read that from headers, which anybody can
// write: what they get is what a web server in front says, if it is one that is believed, else what the connection says.
//
// http-proxy-3 only adds to what came (`xfwd`): of "https,http" tornado reads the end, and cookies were not Secure.

import net from "node:net";

const OTHERS = ["forwarded", "x-real-ip", "x-scheme"]; // tornado and JupyterHub take them for the same

const last = (text) => (text ?? "").split(",").at(-1).trim();

/** An IPv4 address that came over a socket of IPv6, as IPv4. */
const plain = (address) => (address ?? "").replace(/^::ffff:(?=\d+\.)/i, "");

export class Forwarded {
  /** `webServers`: their addresses. */
  constructor(webServers) {
    this.webServers = new Set(webServers);
  }

  /** Replace what `request` says of its sender. */
  settle({ headers, socket }) {
    const peer = plain(socket.remoteAddress);
    const { address, scheme } = this.webServers.has(peer)
      ? { address: plain(last(headers["x-forwarded-for"])), scheme: last(headers["x-forwarded-proto"]) }
      : {};
    for (const name of Object.keys(headers)) {
      if (name.startsWith("x-forwarded-") || OTHERS.includes(name)) delete headers[name];
    }
    const encrypted = ["https", "wss"].includes(scheme?.toLowerCase());
    const host = headers.host ?? "";
    headers["x-forwarded-for"] = net.isIP(address) ? address : peer;
    headers["x-forwarded-proto"] = encrypted ? "https" : "http";
    headers["x-forwarded-host"] = host;
    headers["x-forwarded-port"] = /:(\d+)$/.exec(host)?.[1] ?? (encrypted ? "443" : "80");
  }
}
