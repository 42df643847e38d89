// Connections of a proxy to unix sockets that people's accounts own.

import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import path from "node:path";

const O_PATH = 0o10000000; // open(2); node has no name for it

/**
 * A connection for each request to a unix socket, which this side closes, and only to a socket that is its folder's
 * owner's own (`sockets.way_to` says why and how).
 *
 * Where hub or service close, right after they answered, what node still writes to their socket (of no bytes, after a
 * body) fails, and the proxy says 503 of a request that was carried out: http-proxy-3 asks them to close where it is
 * given no agent.
 */
export class OneRequest extends http.Agent {
  constructor() {
    super({ keepAlive: true });
  }

  addRequest(request, ...more) {
    if (!request.getHeader("Upgrade")) request.setHeader("Connection", "keep-alive");
    super.addRequest(request, ...more);
  }

  keepSocketAlive() {
    return false;
  }

  createConnection(options, failed) {
    const file = options.socketPath;
    let descriptor;
    try {
      descriptor = fs.openSync(file, O_PATH | fs.constants.O_NOFOLLOW);
      const status = fs.fstatSync(descriptor);
      if (!status.isSocket() || status.uid !== fs.statSync(path.dirname(file)).uid) {
        throw Object.assign(new Error(`${file} is no socket of the owner of its folder`), { code: "ECONNREFUSED" });
      }
      return net.connect({ path: `/proc/self/fd/${descriptor}` }); // connected, or not, when it returns
    } catch (error) {
      return void failed(error);
    } finally {
      if (descriptor !== undefined) fs.closeSync(descriptor);
    }
  }
}

/** The options for a target: a unix socket is reached through `agent`. */
export const viaAgent = (options, agent) => (options.target.socketPath ? { ...options, agent } : options);
