/** Small helpers for making and filling elements, and words for people. */

const SVG = "http://www.w3.org/2000/svg";
const SVG_NAMES = new Set(["svg", "path", "line", "text", "g", "title", "desc", "circle"]);

/** An element with attributes (`on…` are listeners; false and null are left out) and children (text or elements). */
export function h(name, attributes = {}, ...children) {
  const element = SVG_NAMES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Puts `children` in place of what is in `element`, and the focus back where it was (found by `data-key`). */
export function fill(element, ...children) {
  const key = element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  if (key) element.querySelector(`[data-key="${key}"]`)?.focus();
}

/** `5400` -> `1 h 30 min`; below two minutes in seconds. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  const hours = Math.floor(s / 3600);
  const minutes = Math.floor((s % 3600) / 60);
  if (!hours) return `${minutes} min`;
  return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
}

/** MiB as GiB with one digit. */
export function gib(mib) {
  return (mib / 1024).toFixed(1);
}

/** GPU memory that a reservation holds, in MiB; 0 of none. */
export function memoryOf(reservation) {
  return reservation.placement.reduce((sum, part) => sum + part.memory_mib, 0);
}

/** What a session has, in a few words. */
export function shareText(reservation) {
  if (reservation.state === "parked") {
    const kept = reservation.kept_mib ? `, ${gib(reservation.kept_mib)} GiB of state kept` : "";
    return `${reservation.asked_again ? "waiting for its GPU" : "GPU given back"}${kept}`;
  }
  const simulated = reservation.simulated ? " (simulated)" : "";
  const models = [...new Set(reservation.placement.map((part) => part.model))].join(", ");
  const named = models && !reservation.share_text.includes(models) ? ` of ${models}` : "";
  return `${reservation.share_text}${named}${simulated}`;
}
