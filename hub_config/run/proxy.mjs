// configurable-http-proxy on sockets that it inherits: node proxy.mjs PACKAGE ROUTES ERROR_TARGET MOST_OPEN WEB_SERVERS [host-routing]
//
// Its own command can only open ports and sockets itself, which leaves a gap at each restart. PACKAGE is the folder of
// the installed proxy; ROUTES the file in which routes are kept, so that a proxy that is started again knows them
// before it takes the first connection; ERROR_TARGET where pages for errors come from; MOST_OPEN: how many requests to
// what all share (hub and services) one person may have open; WEB_SERVERS: addresses, by commas, of those in front that
// are believed (see forwarded.mjs); host-routing: each person's server has a host name of its own. The token of its API
// comes in CONFIGPROXY_AUTH_TOKEN, the sockets as sd_listen_fds(3) has them, under the names "public" and "proxy-api".

import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { OneRequest, viaAgent } from "./one_request.mjs";

import { Forwarded } from "./forwarded.mjs";

const FIRST = 3;
const BACKLOG = 4096;
const [folder, routesFile, errorTarget, mostOpen, webServers, routing] = process.argv.slice(2);

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

/** As it comes with the package, but for unix sockets and for paths that are no text. */
class Proxy extends ConfigurableProxy {
  agent = new OneRequest();

  proxyOptsForTarget(target) {
    return viaAgent(super.proxyOptsForTarget(target), this.agent);
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

const REFUSES_ALL = "Timeshare-Refuses-All"; // crowd.py: this refusal holds for whatever its sender sends; the limit
const MOST_PAUSES = 10000;

/**
 * Refuses what hub and service would: more open requests of one sender (see `sender`) than `most`, and any before the
 * time they told that sender to wait is over. A thousand refused there take turns with the requests of everybody else;
 * here one costs a hundredth.
 */
class Refusals {
  constructor(most) {
    this.most = most;
    this.counts = new Map();
    this.pauses = new Map(); // sender: until when, in ms of performance.now(), and the limit
  }

  /** Why a request of `who` is not passed on, and for how many seconds; undefined when it is. */
  why(who, response) {
    const { until = 0, limit } = this.pauses.get(who) ?? {};
    const left = until - performance.now();
    if (left > 0) {
      const message = `you sent too many requests a second and the limit is ${limit}: wait as long as Retry-After says`;
      return { message, seconds: left / 1000, limit };
    }
    if (this.take(who, response)) return undefined;
    const message = `you have ${this.most} requests that are not answered yet and the limit is ${this.most}: close one first`;
    return { message, seconds: 5, limit: this.most };
  }

  /** Remember what `response`, which is just being answered, says to `who`. Of an upgrade there is only a socket. */
  hear(who, response) {
    if (!(response instanceof http.ServerResponse)) return;
    const seconds = Number(response.getHeader("Retry-After"));
    const limit = Number(response.getHeader(REFUSES_ALL));
    if (response.statusCode !== 429 || !(limit > 0) || !(seconds > 0)) return;
    this.pauses.delete(who); // to the end: the oldest one is forgotten first
    this.pauses.set(who, { until: performance.now() + 1000 * seconds, limit });
    if (this.pauses.size > MOST_PAUSES) this.pauses.delete(this.pauses.keys().next().value);
  }

  take(who, response) {
    const count = this.counts.get(who) ?? 0;
    if (count >= this.most) return false;
    if (response.closed) return true; // the sender has gone: nothing would tell of it again
    response.once("finish", () => this.hear(who, response));
    this.counts.set(who, count + 1);
    response.once("close", () => {
      const left = this.counts.get(who) - 1;
      if (left) this.counts.set(who, left);
      else this.counts.delete(who);
    });
    return true;
  }

  refuse({ message, seconds, limit }, response) {
    const wait = Math.max(1, Math.ceil(seconds));
    const error = { reason: "too-many-requests", message, details: { limit, retry_after_s: wait } };
    const body = JSON.stringify({ status: 429, message, error }); // as the hub has it, and as the service has it
    const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body), "Retry-After": `${wait}` };
    // The rest of a body that nobody reads would be taken for the next request.
    response.writeHead(429, { ...headers, "Cache-Control": "no-store", Connection: "close" }).end(body);
  }
}

/** Who sends a request, as far as that can be told without asking; empty: nobody knows. */
function sender(request) {
  const cookie = /(?:^|;\s*)(jupyterhub-hub-login=[^;]+)/.exec(request.headers.cookie ?? "");
  return request.headers.authorization ?? cookie?.[1] ?? "";
}

/** To whose own server a request goes; empty: to what all share. */
async function serverOf(proxy, request, base) {
  const route = await proxy.targetForReq(request);
  return route?.prefix.split(`${base}user/`)[1]?.split("/")[0] ?? "";
}

const SPARE_FILES = 256;
const MOST_CONNECTIONS = 10000;

/** As many as open files allow: each may need another one behind. */
function mostConnections() {
  const found = /^Max open files +(\d+)/m.exec(fs.readFileSync("/proc/self/limits", "utf8"));
  const files = found ? Number(found[1]) : Infinity;
  return Math.max(16, Math.min(MOST_CONNECTIONS, Math.floor((files - SPARE_FILES) / 2)));
}

const PARTS = 16;

/**
 * Keeps at most `most` connections of `server`. A further one takes the place of the latest one to the servers of a
 * person that have more than a part of all; else of the one that has waited longest without a request.
 */
class Places {
  constructor(server, most) {
    this.most = most;
    this.open = 0;
    this.waiting = new Set();
    this.taken = new Map(); // to the servers of one person, by name
    server.on("connection", (socket) => {
      this.open += 1;
      this.waiting.add(socket);
      socket.on("close", () => {
        this.open -= 1;
        this.waiting.delete(socket);
      });
      if (this.open > most) this.least()?.destroy();
    });
    server.prependListener("request", ({ socket }, response) => {
      this.waiting.delete(socket);
      response.on("close", () => {
        if (!socket.destroyed) this.waiting.add(socket);
      });
    });
    server.prependListener("upgrade", (request, socket) => this.waiting.delete(socket));
  }

  least() {
    for (const sockets of this.taken.values()) {
      if (sockets.size > this.most / PARTS) return [...sockets].at(-1);
    }
    return this.waiting.values().next().value;
  }

  /** `socket` is busy with a request to the servers of `person` until `whole`, the response or itself, is closed. */
  take(person, socket, whole) {
    if (!person || whole.closed) return;
    if (!this.taken.has(person)) this.taken.set(person, new Set());
    const sockets = this.taken.get(person).add(socket);
    whole.once("close", () => {
      sockets.delete(socket);
      if (!sockets.size && this.taken.get(person) === sockets) this.taken.delete(person);
    });
  }
}

const LAST_WORDS_MS = 5000;

/** A server that does not close, or never answers, keeps no connection of the proxy's once who asked has gone:
 * http-proxy-3 only says that it will send no more. */
function leaveWith(socket, asked) {
  let upstream;
  const leave = () => {
    if (!upstream) return void asked.destroy();
    setTimeout(() => upstream.destroy(), LAST_WORDS_MS).unref(); // what is on its way still arrives
  };
  asked.on("upgrade", (_, connection) => {
    upstream = connection;
    if (socket.destroyed) leave();
  });
  if (socket.destroyed) return leave();
  socket.once("close", leave);
  socket.once("end", leave); // it says no more: until both have said so, its side stays open too
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
const passing = { prependPath: true, includePrefix: true };
const proxy = new Proxy({ log, authToken, errorTarget, hostRouting, ...passing });
proxy._routes = new KeptRoutes(routesFile);

const refusals = new Refusals(Number(mostOpen));
const base = new URL(errorTarget).pathname.replace(/hub\/error$/, "");
const shared = proxy.proxyServer;
const [pass] = shared.listeners("request");
const [passUpgrade] = shared.listeners("upgrade");
shared.removeAllListeners("request").removeAllListeners("upgrade");
const places = new Places(shared, mostConnections());
const forwarded = new Forwarded(webServers.split(",").filter(Boolean));

/** Why a request is not passed on, see `Refusals.why`. `whole`: what is closed when it is over. */
async function counted(request, whole) {
  forwarded.settle(request);
  const person = await serverOf(proxy, request, base);
  places.take(person, request.socket, whole);
  const who = person ? "" : sender(request);
  return who ? refusals.why(who, whole) : undefined;
}

shared.on("request", async (request, response) => {
  const why = await counted(request, response);
  if (why) refusals.refuse(why, response);
  else pass(request, response);
});
shared.on("upgrade", async (request, socket, head) => {
  socket.on("error", () => socket.destroy()); // node listens no more
  const why = await counted(request, socket);
  if (!why) return void passUpgrade(request, socket, head);
  const response = new http.ServerResponse(request);
  response.assignSocket(socket);
  response.once("finish", () => socket.end());
  refusals.refuse(why, response);
});
proxy.proxy.on("proxyReqWs", (asked, request, socket) => leaveWith(socket, asked));
// Node knows `backlog` in the options, but not together with `fd`: then it would be 511, and the kernel drops who comes
// while so many wait; her machine tries again after 1, 3, 7 ... seconds.
proxy.apiServer.listen({ fd: inherited("proxy-api") }, BACKLOG);
proxy.proxyServer.listen({ fd: inherited("public") }, BACKLOG);

process.on("SIGTERM", () => process.exit(0));
process.on("uncaughtException", (error) => log.error("%s", error.stack ?? error.message));
