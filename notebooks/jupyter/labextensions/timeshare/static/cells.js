/** What concerns cells: running one in batch, handing a running one over, and the quiet offer below a long one. */

import { readLine, writeLine } from "./batchline.js";
import { duration, h } from "./dom.js";

const LOOK_MS = 2000;

/** The form of "Run in batch". */
function form(fields) {
  const input = (name, label, hint) =>
    h(
      "label",
      {},
      h("span", {}, label),
      h("input", { type: "text", name, value: fields[name] ?? "", placeholder: hint, autocomplete: "off" }),
    );
  const kind = fields.memory ? "memory" : fields.mig ? "mig" : "gpus";
  const option = (value, text) => h("option", { value, selected: value === kind }, text);
  const size = h("input", { type: "text", name: "size", value: fields[kind] ?? "1", required: true });
  return h(
    "div",
    { class: "ts-form" },
    h(
      "label",
      {},
      h("span", {}, "Share"),
      h(
        "select",
        { name: "kind" },
        option("gpus", "whole GPUs"),
        option("memory", "GiB of one GPU"),
        option("mig", "MIG profile"),
      ),
      size,
    ),
    input("model", "Model", "any"),
    input("engine", "Runs at", "this machine; or an engine such as slurm"),
    input("nodes", "Nodes", "1; an engine may give more"),
    input("time", "Time limit", "8h, 90m, 2d; default: your limits’ own"),
    input("name", "Name", "the cell’s first line"),
    input("with", "Also takes along", "names, with commas"),
    input("out", "Also brings back", "names, with commas"),
  );
}

function fieldsOf(node, before) {
  const value = (name) => node.querySelector(`[name=${name}]`).value.trim();
  const named = Object.fromEntries(["model", "engine", "nodes", "time", "name", "with", "out"].map((name) => [name, value(name)]));
  return { ...named, [value("kind")]: value("size"), rest: before.rest };
}

export class Cells {
  constructor(lab, tracker, client) {
    this._lab = lab;
    this._tracker = tracker;
    this._client = client;
    this._since = new WeakMap();
    this._offered = new WeakMap();
    this.offers = true;
    setInterval(() => this._look(), LOOK_MS);
  }

  get panel() {
    return this._tracker.currentWidget;
  }

  /** Asks for the job's share, and writes the line on top of the active cell. */
  async runInBatch() {
    const cell = this._tracker.activeCell;
    if (cell?.model.type !== "code") return;
    const { Dialog, showDialog } = this._lab.apputils;
    const source = cell.model.sharedModel.getSource();
    const before = readLine(source);
    const body = new this._lab.widgets.Widget({ node: form(before) });
    const result = await showDialog({
      title: "Run this cell in batch",
      body,
      buttons: [Dialog.cancelButton(), Dialog.okButton({ label: "Write the line" })],
    });
    if (!result.button.accept) return;
    cell.model.sharedModel.setSource(writeLine(source, fieldsOf(body.node, before)));
    cell.editor?.focus();
  }

  /** A cell of the current notebook that runs now; null when none does. */
  runningCell() {
    return this.panel?.content.widgets.find((cell) => running(cell)) ?? null;
  }

  /** Writes a cell below the one that runs, which does the same as a job. */
  handOver(cell = this.runningCell()) {
    if (!cell) return;
    const source = cell.model.sharedModel.getSource();
    const fields = readLine(source);
    this._insertBelow(cell, writeLine(source, { gpus: "1", ...fields }));
  }

  /** Writes `source` into a new cell and runs it. */
  async insertAndRun(source) {
    const panel = this.panel;
    if (!panel) throw new Error("open a notebook first: the outputs appear in a cell of it");
    this._insertBelow(panel.content.activeCell, source);
    await this._lab.notebook.NotebookActions.run(panel.content, panel.sessionContext);
  }

  _insertBelow(cell, source) {
    const notebook = this.panel.content;
    const index = notebook.widgets.indexOf(cell);
    if (index >= 0) notebook.activeCellIndex = index;
    this._lab.notebook.NotebookActions.insertBelow(notebook);
    notebook.activeCell.model.sharedModel.setSource(source);
  }

  _look() {
    const { here, long_cell_s: long } = this._client.status;
    if (!here || !long) return;
    this._tracker.forEach((panel) => panel.content.widgets.forEach((cell) => this._watch(cell, long)));
  }

  _watch(cell, long) {
    if (!running(cell)) {
      this._since.delete(cell.model);
      this._offered.get(cell.model)?.remove();
      this._offered.delete(cell.model);
      return;
    }
    if (!this._since.has(cell.model)) this._since.set(cell.model, Date.now());
    const seconds = (Date.now() - this._since.get(cell.model)) / 1000;
    const isJob = readLine(cell.model.sharedModel.getSource()).rest.length || cell.model.sharedModel.getSource().startsWith("%%gpu_batch");
    if (seconds < long || this._offered.has(cell.model) || !this.offers || isJob) return;
    const offer = this._offer(cell, seconds);
    this._offered.set(cell.model, offer);
    cell.node.append(offer);
  }

  _offer(cell, seconds) {
    const offer = h(
      "div",
      { class: "ts-offer", role: "note" },
      `Running for ${duration(seconds)}. As a job it goes on without you, and its GPU is yours until it ends.`,
      h("button", { type: "button", class: "ts-button", onclick: () => this.handOver(cell) }, "Write it as a job below"),
      h("button", { type: "button", class: "ts-button", "aria-label": "Dismiss this offer", onclick: () => offer.remove() }, "Not now"),
    );
    return offer;
  }
}

function running(cell) {
  return cell.model.type === "code" && cell.model.executionState === "running";
}
