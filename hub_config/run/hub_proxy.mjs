// configurable-http-proxy as a hub starts it, with its own options: node hub_proxy.mjs PACKAGE OPTIONS...
//
// Only how it connects to unix sockets is other: its own way would follow links that people's accounts put in their place.

import path from "node:path";
import { pathToFileURL } from "node:url";
import { OneRequest, viaAgent } from "./one_request.mjs";

const [folder] = process.argv.splice(2, 1);
const load = (...names) => import(pathToFileURL(path.join(folder, ...names)));
const { default: ConfigurableProxy } = await load("lib", "configproxy.js");
const agent = new OneRequest();
const asItComes = ConfigurableProxy.prototype.proxyOptsForTarget;
ConfigurableProxy.prototype.proxyOptsForTarget = function (target) {
  return viaAgent(asItComes.call(this, target), agent);
};
process.argv[1] = path.join(folder, "bin", "configurable-http-proxy");
await load("bin", "configurable-http-proxy");
