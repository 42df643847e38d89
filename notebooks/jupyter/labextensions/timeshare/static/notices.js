/** Notices with actions: each is told once, goes on counting down, and disappears when it does not hold any more. */

import { duration } from "./dom.js";

const TWO_HOURS = 7200;

/** The notices that hold now: what they are about, their text, and how urgent they are. */
export function noticesOf({ reservation, activity }) {
  if (!reservation) return [];
  const found = reservation.notices.map((notice) => ({
    about: `${notice.at} ${notice.level}`,
    text: notice.text,
    danger: notice.level === "danger",
    idle: Boolean(activity?.warning) && notice.text.startsWith(activity.warning.text),
    info: notice.level === "info",
  }));
  return found.map((notice) => ({ ...notice, ending: reservation.state === "ending" }));
}

export class Notices {
  /** `act`: as in the panel. `deeds`: what needs a question or a notebook. */
  constructor(lab, client, act, deeds, saveAll) {
    this._notification = lab.apputils.Notification;
    this._client = client;
    this._act = act;
    this._deeds = deeds;
    this._saveAll = saveAll;
    this._shown = new Map();
    this._saved = new Set();
    client.onChange((status) => this._update(status));
  }

  _update(status) {
    const holding = noticesOf(status);
    for (const notice of holding) {
      if (notice.ending && !this._saved.has(notice.about)) {
        this._saved.add(notice.about);
        this._saveAll();
      }
      const known = this._shown.get(notice.about);
      if (known === undefined) this._shown.set(notice.about, this._show(notice, status));
      else if (this._notification.manager.has(known)) this._notification.update({ id: known, message: notice.text });
    }
    const about = new Set(holding.map((notice) => notice.about));
    for (const [key, id] of this._shown) {
      if (about.has(key)) continue;
      this._notification.dismiss(id);
      this._shown.delete(key);
    }
  }

  _show(notice, status) {
    const kind = notice.danger ? "error" : notice.info ? "info" : "warning";
    return this._notification.emit(notice.text, kind, {
      autoClose: false,
      actions: notice.info || notice.ending ? [] : this._actions(notice, status),
    });
  }

  _actions(notice, { reservation, activity }) {
    const actions = [];
    if (notice.idle) {
      const seconds = Math.min(3600, activity?.keep_left_s ?? 0);
      if (seconds) {
        const label = `Keep alive ${duration(seconds)}, because…`;
        actions.push({ label, caption: "Says why, for those who wait", callback: this._deeds.keepAlive.bind(null, seconds) });
      }
    } else if (reservation.extension.allowed) {
      const seconds = Math.min(TWO_HOURS, reservation.extension.longest_s);
      actions.push({
        label: `Extend ${duration(seconds)}`,
        displayType: "accent",
        callback: () => this._act("extend", { seconds }),
      });
    }
    if (this._deeds.runningCell()) {
      const caption = "Writes a cell below it that runs the same as a job; nothing starts by itself";
      actions.push({ label: "Hand the running cell to batch", caption, callback: () => this._deeds.handOver() });
    }
    return actions;
  }
}
