/** Speaks to the extension of the session's own server, and follows what it says. One for all views. */

const SHOWN_MS = 5000;
const HIDDEN_MS = 15000;
const SILENT_MS = 30000;
const INPUT_MS = 30000;
const NOTHING = { here: false, silent: "", reservation: null, activity: null, jobs: [], long_cell_s: 0 };

export class Client {
  /** `services`, `coreutils`: of JupyterLab. `changed` is called with every new status. */
  constructor({ services, coreutils }) {
    this._connection = services.ServerConnection;
    this._settings = services.ServerConnection.makeSettings();
    this._base = coreutils.URLExt.join(this._settings.baseUrl, "timeshare");
    this._listeners = [];
    this._timer = 0;
    this._inputAt = 0;
    this.status = NOTHING;
    this.at = Date.now();
  }

  /** Seconds since the status came in: what counts down goes on between two of them. */
  get age() {
    return (Date.now() - this.at) / 1000;
  }

  onChange(listener) {
    this._listeners.push(listener);
    listener(this.status);
  }

  /** Begins to follow. Outside of a session it asks once and is quiet. */
  async start() {
    await this._ask();
    if (!this.status.here) return;
    document.addEventListener("visibilitychange", () => !document.hidden && this._soon(0));
    for (const kind of ["keydown", "pointerdown"]) {
      document.addEventListener(kind, () => this._input(), { capture: true, passive: true });
    }
    this._soon(SHOWN_MS);
  }

  /** Asks for a change; resolves when it is done, rejects with words for people. */
  async post(path, body = {}) {
    const told = await this._request(path, { method: "POST", body: JSON.stringify(body) });
    if (told.here !== undefined) this._take(told);
    return told;
  }

  log(jobId) {
    return this._request(`jobs/${encodeURIComponent(jobId)}/log`, {});
  }

  async _ask() {
    try {
      this._take(await this._request("status", {}));
    } catch (error) {
      if (this.status.here) this._take({ ...this.status, silent: error.message });
    }
  }

  _take(status) {
    this.status = status;
    this.at = Date.now();
    for (const listener of this._listeners) listener(status);
  }

  _soon(wait) {
    clearTimeout(this._timer);
    this._timer = setTimeout(async () => {
      await this._ask();
      this._soon(this.status.silent ? SILENT_MS : document.hidden ? HIDDEN_MS : SHOWN_MS);
    }, wait);
  }

  /** Somebody is here: told seldom, and never waited for. */
  _input() {
    if (Date.now() - this._inputAt < INPUT_MS) return;
    this._inputAt = Date.now();
    this._request("input", { method: "POST", body: "{}" }).catch(() => {});
  }

  async _request(path, init) {
    let response;
    try {
      response = await this._connection.makeRequest(`${this._base}/${path}`, init, this._settings);
    } catch {
      throw new Error("your Jupyter server does not answer; this is tried again");
    }
    const told = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(told.message || `your Jupyter server answered with status ${response.status}`);
    return told;
  }
}
