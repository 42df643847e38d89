/** The `%%gpu_batch` line of a cell: read into the fields of the form, and written from them. */

const LINE = /^%%gpu_batch\b(.*)$/;
const NAMES = {
  gpus: ["--gpus", "-G"],
  memory: ["--memory"],
  mig: ["--mig"],
  model: ["--model", "-C"],
  engine: ["--engine"],
  nodes: ["--nodes", "-N"],
  time: ["--time", "-t"],
  name: ["--name", "-J"],
  with: ["--with"],
  out: ["--out"],
};

/** Words of a line as a shell has them, quotes taken off. */
export function words(text) {
  return [...text.matchAll(/"((?:[^"\\]|\\.)*)"|'([^']*)'|(\S+)/g)].map(
    (match) => match[1]?.replace(/\\(.)/g, "$1") ?? match[2] ?? match[3],
  );
}

/** The fields that the first line of `source` gives, and in `rest` the words that the form does not know. */
export function readLine(source) {
  const fields = { rest: [] };
  const match = LINE.exec(source.split("\n", 1)[0]);
  if (!match) return fields;
  const given = words(match[1]);
  while (given.length) {
    const [flag, joined] = splitOnce(given.shift());
    const name = Object.keys(NAMES).find((key) => NAMES[key].includes(flag));
    if (name) fields[name] = joined ?? given.shift() ?? "";
    else fields.rest.push(joined === undefined ? flag : `${flag}=${joined}`);
  }
  return fields;
}

function splitOnce(word) {
  const at = word.startsWith("--") ? word.indexOf("=") : -1;
  return at < 0 ? [word, undefined] : [word.slice(0, at), word.slice(at + 1)];
}

/** `source` with a line for `fields` in place of the one that it has. */
export function writeLine(source, fields) {
  const given = Object.keys(NAMES)
    .filter((name) => fields[name])
    .map((name) => `${NAMES[name][0]} ${quoted(fields[name])}`);
  const line = ["%%gpu_batch", ...given, ...fields.rest.map(quoted)].join(" ");
  const body = LINE.test(source.split("\n", 1)[0]) ? source.split("\n").slice(1).join("\n") : source;
  return `${line}\n${body}`;
}

function quoted(word) {
  return /^[\w@%+=:,./*-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
}
