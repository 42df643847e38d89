/** The line in Lab's status bar: share, GPU use, memory, time left. */

import { duration, fill, gib, h, memoryOf, shareText } from "./dom.js";

/** The text for a status; `age` in seconds since it came in. */
export function statusText(status, age) {
  const { reservation, activity, silent } = status;
  if (!reservation) return silent ? "timeshare does not answer" : "";
  const parts = [shareText(reservation)];
  const signals = activity?.signals;
  const memory = memoryOf(reservation);
  if (memory) {
    parts.push(`GPU ${signals?.gpu === null || signals?.gpu === undefined ? "?" : Math.round(signals.gpu)} %`);
    parts.push(`${signals?.memory_mib === null || !signals ? "?" : gib(signals.memory_mib)} of ${gib(memory)} GiB`);
  }
  if (reservation.remaining_s !== null) parts.push(`${duration(reservation.remaining_s - age)} left`);
  if (silent) parts.push("timeshare does not answer");
  return parts.join(" · ");
}

export function makeStatusItem(lab, client, open) {
  const button = h("button", { class: "ts-status", type: "button", onclick: open, title: "Show GPU, time and jobs" });
  const item = new lab.widgets.Widget({ node: h("div", { class: "ts-status-item" }, button) });
  const draw = () => {
    const text = statusText(client.status, client.age);
    item.setHidden(!client.status.here);
    const warned = Boolean(client.status.activity?.warning) || client.status.reservation?.notices.length > 0;
    button.classList.toggle("ts-warned", warned);
    if (button.textContent !== text) fill(button, text);
  };
  client.onChange(draw);
  setInterval(draw, 1000);
  return item;
}
