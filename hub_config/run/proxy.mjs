// configurable-http-proxy on sockets that it inherits: node proxy.mjs PACKAGE ROUTES ERROR_TARGET [host-routing]
//
// Its own command can only open ports and sockets itself, which leaves a gap at each restart. PACKAGE is the folder of
// the installed proxy; ROUTES the file in which routes are kept, so that a proxy that is started again knows them
// before it takes the first connection; ERROR_TARGET where pages for errors come from; host-routing: each person's
// server has a host name of its own. The token of its API comes in
// CONFIGPROXY_AUTH_TOKEN, the sockets as sd_listen_fds(3) has them, under the names "public" and "proxy-api".

import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { pathToFileURL } from "node:url";

const FIRST = 3;
const BACKLOG = 4096;
const [folder, routesFile, errorTarget, routing] = process.argv.slice(2);

const load = (name) => import(pathToFileURL(path.join(folder, "lib", name)));
const { default: ConfigurableProxy } = await load("configproxy.js");
const { MemoryStore } = await load("store.js");
const { defaultLogger } = await load("log.js");
const log = defaultLogger({ level: "warn" });

/** Keeps routes in a file too. When one was last used (`update`) is not worth writing down. */
class KeptRoutes extends MemoryStore {
  constructor(file) {
    super();
    this.file = file;
    for (const [route, data] of Object.entries(this.read())) {
      super.add(route, { ...data, last_activity: new Date(data.last_activity) });
    }
  }

  read() {
    try {
      return JSON.parse(fs.readFileSync(this.file, "utf8"));
    } catch (error) {
      if (error.code !== "ENOENT") log.warn("routes are asked for anew: %s", error.message);
      return {};
    }
  }

  write() {
    try {
      fs.writeFileSync(`${this.file}.new`, JSON.stringify(this.routes), { mode: 0o600 });
      fs.renameSync(`${this.file}.new`, this.file);
    } catch (error) {
      log.error("routes cannot be kept: %s", error.message);
    }
  }

  async add(route, data) {
    await super.add(route, data);
    this.write();
  }

  async remove(route) {
    const removed = await super.remove(route);
    this.write();
    return removed;
  }

  update(route, data) {
    // One that was removed meanwhile has nothing to update.
    if (this.routes[this.cleanPath(route)]) super.update(route, data);
  }
}

/** A connection for each request, which this side closes. Where hub or service do, right after they answered, what node
 * still writes to their unix socket (of no bytes, after a body) fails, and the proxy says 503 of a request that was
 * carried out: http-proxy-3 asks them to close where it is given no agent. */
class OneRequest extends http.Agent {
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
}

/** As it comes with the package, but for unix sockets and for paths that are no text. */
class Proxy extends ConfigurableProxy {
  agent = new OneRequest();

  proxyOptsForTarget(target) {
    const options = super.proxyOptsForTarget(target);
    return options.target.socketPath ? { ...options, agent: this.agent } : options;
  }

  async targetForReq(request) {
    try {
      return await super.targetForReq(request);
    } catch (error) {
      if (error instanceof URIError || error.code === "ERR_INVALID_URL") return undefined; // else nobody answers
      throw error;
    }
  }
}

const SPARE_FILES = 256;
const MOST_CONNECTIONS = 10000;

/** As many as open files allow: each may need another one behind. */
function mostConnections() {
  const found = /^Max open files +(\d+)/m.exec(fs.readFileSync("/proc/self/limits", "utf8"));
  const files = found ? Number(found[1]) : Infinity;
  return Math.max(16, Math.min(MOST_CONNECTIONS, Math.floor((files - SPARE_FILES) / 2)));
}

/** Keeps at most `most` connections of `server`: a further one takes the place of the one that has waited longest
 * without a request. */
function keepWithin(server, most) {
  const waiting = new Set();
  let open = 0;
  server.on("connection", (socket) => {
    open += 1;
    waiting.add(socket);
    socket.on("close", () => {
      open -= 1;
      waiting.delete(socket);
    });
    if (open > most) waiting.values().next().value.destroy();
  });
  server.prependListener("request", ({ socket }, response) => {
    waiting.delete(socket);
    response.on("close", () => {
      if (!socket.destroyed) waiting.add(socket);
    });
  });
  server.prependListener("upgrade", (request, socket) => waiting.delete(socket));
}

function inherited(name) {
  const names = (process.env.LISTEN_FDNAMES ?? "").split(":");
  const place = process.env.LISTEN_PID === String(process.pid) ? names.indexOf(name) : -1;
  if (place < 0) {
    console.error(`no listening socket called ${name} was handed on: start the proxy by \`timeshare up\``);
    process.exit(1);
  }
  return FIRST + place;
}

const authToken = process.env.CONFIGPROXY_AUTH_TOKEN;
if (!authToken) {
  console.error("CONFIGPROXY_AUTH_TOKEN is not set: whoever reaches the proxy's API could send people anywhere");
  process.exit(1);
}
const hostRouting = routing === "host-routing";
const passing = { xfwd: true, prependPath: true, includePrefix: true };
const proxy = new Proxy({ log, authToken, errorTarget, hostRouting, ...passing });
proxy._routes = new KeptRoutes(routesFile);
keepWithin(proxy.proxyServer, mostConnections());
proxy.apiServer.listen({ fd: inherited("proxy-api"), backlog: BACKLOG });
proxy.proxyServer.listen({ fd: inherited("public"), backlog: BACKLOG });

process.on("SIGTERM", () => process.exit(0));
process.on("uncaughtException", (error) => log.error("%s", error.stack ?? error.message));
