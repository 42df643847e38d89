/** The panel: time, GPU, idle state, protection, what was decided, and batch jobs. */

import { duration, fill, gib, h, memoryOf, shareText } from "./dom.js";
import { plot } from "./plots.js";

const MEANING = {
  hardware: "held to its size by the hardware",
  driver: "held to its memory by the driver",
  watchdog: "watched: more memory than the share is warned about, then stopped",
  cooperative: "not enforced on this machine: please stay within it",
  simulated: "simulated: there is no GPU behind it",
  none: "",
};
const EXTENSIONS = [15, 30, 60, 120, 240, 480];
const KEEPS = [30, 60, 120, 240, 480];
const DECIDED = {
  warn: "Warned",
  give_back: "GPU given back",
  park: "GPU given back, state to be kept",
  "not parked": "Could not be parked",
  stop: "Stopped",
  keep: "Protected",
  "keep ended": "Protection ended",
};

/** What the session is doing and what follows, in words. */
export function idleText(activity) {
  const rules = activity.rules;
  const what = rules.action === "stop" ? "it is stopped" : "its GPU goes back";
  if (activity.working.startsWith("nobody knows")) return `Counts as in use, for ${activity.working}.`;
  if (activity.working) return `In use: ${activity.working}.`;
  const limit = rules.after_s ? ` After ${duration(rules.after_s)} ${what}.` : " No idle limit holds for it.";
  if (activity.idle_s !== null) return `Idle for ${duration(activity.idle_s)}.${limit}`;
  return `Not idle: ${activity.why}.${limit}`;
}

export class Panel {
  /** `act(path, body)` asks for a change and says what went wrong; `deeds`: what needs a notebook or a question. */
  constructor(lab, client, act, deeds) {
    this._client = client;
    this._act = act;
    this._deeds = deeds;
    this.widget = new lab.widgets.Widget();
    this.widget.id = "timeshare-panel";
    this.widget.title.caption = "GPU, time and batch jobs";
    this.widget.addClass("ts-panel");
    this._minutes = 60;
    this._keepMinutes = 60;
    this._why = "";
    client.onChange(() => this.draw());
  }

  draw() {
    // A person who is choosing or writing must not lose it.
    const active = document.activeElement;
    if (this.widget.node.contains(active) && ["SELECT", "INPUT"].includes(active.tagName)) return;
    const { here, silent, reservation, activity, jobs } = this._client.status;
    if (!here) {
      fill(this.widget.node, h("p", {}, "This server is no session of timeshare, so there is nothing to show."));
      return;
    }
    fill(
      this.widget.node,
      silent && h("p", { class: "ts-notice", role: "status" }, `${silent}. Your work goes on; what is shown may be old.`),
      reservation && this._session(reservation, activity),
      reservation && activity && this._activity(reservation, activity),
      this._jobs(jobs),
      activity && this._decisions(activity.decisions),
    );
  }

  _button(key, text, onclick, title = null) {
    return h("button", { type: "button", class: "ts-button", "data-key": key, onclick, title }, text);
  }

  _session(reservation, activity) {
    const left = reservation.remaining_s;
    return h(
      "section",
      { "aria-label": "Session" },
      h("h2", {}, shareText(reservation)),
      reservation.enforcement && MEANING[reservation.enforcement] && h("p", { class: "ts-quiet" }, MEANING[reservation.enforcement]),
      reservation.notices.map((notice) =>
        h("p", { class: `ts-notice ts-${notice.level}`, role: "status" }, notice.text),
      ),
      left !== null && h("p", {}, "Time left: ", h("strong", {}, duration(left))),
      this._extension(reservation.extension),
      this._gpu(reservation, activity),
    );
  }

  _extension(extension) {
    if (!extension.allowed) return h("p", { class: "ts-quiet" }, `Cannot be extended: ${extension.why}.`);
    const fitting = EXTENSIONS.filter((minutes) => minutes * 60 <= extension.longest_s);
    const choices = fitting.length ? fitting : [Math.floor(extension.longest_s / 60)];
    if (!choices.includes(this._minutes)) this._minutes = choices[choices.length - 1];
    return h(
      "div",
      { class: "ts-row" },
      this._select("extend-by", "Extend by", choices, this._minutes, (minutes) => (this._minutes = minutes)),
      this._button("extend", "Extend", () => this._act("extend", { seconds: this._minutes * 60 })),
    );
  }

  _select(key, label, choices, chosen, take) {
    return h(
      "select",
      { "aria-label": label, "data-key": key, onchange: (event) => take(Number(event.target.value)) },
      choices.map((minutes) => h("option", { value: minutes, selected: minutes === chosen }, duration(minutes * 60))),
    );
  }

  _gpu(reservation, activity) {
    if (reservation.handling === "returning") return h("p", {}, "Its GPU is being given back …");
    if (reservation.handling === "parking") return h("p", { role: "status" }, "What it holds on its GPU is being kept …");
    if (reservation.handling === "resuming" && reservation.kept_mib) {
      const wait = h("p", { role: "status" }, `What was kept is being brought back: ${reservation.detail}.`);
      return h("div", {}, wait, h("div", { class: "ts-row" }, this._button("give-back", "Give the GPU back", () => this._act("give_back"))));
    }
    if (reservation.state === "active" && memoryOf(reservation)) {
      const held = activity?.signals.memory_mib;
      return h(
        "div",
        { class: "ts-row" },
        this._button("give-back", "Give the GPU back", () => this._deeds.giveBack(held, activity?.cannot_park)),
      );
    }
    if (reservation.state !== "parked") return null;
    if (!reservation.asked_again) {
      const kept = `Kernels that hold GPU state (${gib(reservation.kept_mib)} GiB) wait in their CUDA calls until the GPU is back.`;
      return h(
        "div",
        {},
        reservation.kept_mib > 0 && h("p", { class: "ts-quiet" }, kept),
        h("div", { class: "ts-row" }, this._button("ask-again", "Ask for the GPU again", () => this._act("ask_again"))),
      );
    }
    const start = reservation.latest_start_in_s;
    const when = start === null ? "" : reservation.firm ? `, at the latest in ${duration(start)}` : `, expected in ${duration(start)}`;
    return h(
      "div",
      {},
      h("p", { role: "status" }, `Position ${reservation.position ?? "–"} in line${when}. ${reservation.why_waiting}`),
      h("div", { class: "ts-row" }, this._button("leave", "Stop waiting", () => this._act("give_back"))),
    );
  }

  _activity(reservation, activity) {
    const memory = memoryOf(reservation);
    const inGib = activity.history.map((p) => ({ ...p, memory: p.memory_mib === null ? null : p.memory_mib / 1024 }));
    return h(
      "section",
      { "aria-label": "Activity" },
      h("h3", {}, "Activity"),
      h("p", { role: "status" }, reservation.state === "parked" ? "It runs on without a GPU." : idleText(activity)),
      reservation.state === "active" && this._protection(activity),
      h("h3", {}, "The last hour"),
      plot("GPU use", activity.history, "gpu", "%", 100),
      plot("GPU memory", inGib, "memory", "GiB", Math.max(1, memory / 1024)),
      plot("CPU use (100 % is a core)", activity.history, "cpu", "%", 100),
    );
  }

  _protection(activity) {
    if (!activity.rules.after_s || !activity.rules.keep_s) return null;
    if (activity.kept_s > 0) {
      return h(
        "div",
        { class: "ts-row" },
        h("span", {}, `Protected for ${duration(activity.kept_s)}: ${activity.kept_why}.`),
        this._button("end-keep", "End protection", () => this._act("keep", { seconds: 0 })),
      );
    }
    const choices = KEEPS.filter((minutes) => minutes * 60 <= activity.keep_left_s);
    if (!choices.length) return h("p", { class: "ts-quiet" }, "The time in which it may be protected is used up.");
    if (!choices.includes(this._keepMinutes)) this._keepMinutes = choices[choices.length - 1];
    return h(
      "form",
      {
        class: "ts-row",
        onsubmit: (event) => {
          event.preventDefault();
          this._act("keep", { seconds: this._keepMinutes * 60, why: this._why });
          this._why = "";
        },
      },
      this._select("keep-for", "Keep alive for", choices, this._keepMinutes, (minutes) => (this._keepMinutes = minutes)),
      h("input", {
        type: "text",
        required: true,
        maxlength: 200,
        "aria-label": "because",
        placeholder: "because …",
        "data-key": "why",
        value: this._why,
        oninput: (event) => (this._why = event.target.value),
      }),
      h("button", { class: "ts-button", "data-key": "keep" }, "Keep alive"),
    );
  }

  _decisions(decisions) {
    if (!decisions.length) return null;
    const row = (decision) =>
      h(
        "li",
        {},
        h("time", { datetime: decision.at }, new Date(decision.at).toLocaleTimeString()),
        ` ${DECIDED[decision.what] ?? decision.what}: ${decision.why}`,
      );
    return h("section", { "aria-label": "What was decided" }, h("h3", {}, "What was decided"), h("ul", {}, decisions.map(row)));
  }

  _jobs(jobs) {
    const none = h("p", { class: "ts-quiet" }, "None yet. “Run in batch” in a cell’s toolbar makes one.");
    return h(
      "section",
      { "aria-label": "Batch jobs" },
      h("h3", {}, "Batch jobs"),
      jobs.length ? jobs.map((job) => this._job(job)) : none,
    );
  }

  _job(job) {
    const name = job.name || job.id;
    return h(
      "div",
      { class: "ts-job", "data-job": job.id },
      h("div", {}, h("strong", {}, name), ` ${name === job.id ? "" : job.id} — ${job.state}`),
      job.where && h("p", { class: "ts-quiet" }, `At ${job.where}`),
      job.progress !== null && !job.ended && h("progress", { max: 1, value: job.progress, "aria-label": `Progress of ${name}` }),
      (job.progress_text || job.detail) && h("p", { class: "ts-quiet" }, job.progress_text || job.detail),
      h(
        "div",
        { class: "ts-row" },
        this._button(`log-${job.id}`, "Log", () => this._deeds.showLog(job)),
        this._button(`attach-${job.id}`, "Attach", () => this._deeds.attach(job)),
        !job.ended && this._button(`cancel-${job.id}`, "Cancel", () => this._deeds.cancel(job)),
      ),
    );
  }
}
