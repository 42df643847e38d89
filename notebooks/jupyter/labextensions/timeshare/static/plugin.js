/** Puts the parts together. */

import { Cells } from "./cells.js";
import { Client } from "./client.js";
import { gib, h } from "./dom.js";
import { Notices } from "./notices.js";
import { Panel } from "./panel.js";
import { makeStatusItem } from "./statusbar.js";

const ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161" ' +
  'd="M3 6h18v11h-8v2h-2v-2H3zm2 2v7h14V8zm3 1.5a2.5 2.5 0 1 1 0 4.9zM14 10h3v3h-3z"/></svg>';
const RUN_ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161" ' +
  'd="M4 4h12v2H6v12h4v2H4zm9 5 8 5-8 5z"/></svg>';

/** The plugin. `lab`: JupyterLab's own modules; `here`: the address of this folder. */
export function makePlugin(lab, here) {
  return {
    id: "timeshare:plugin",
    description: "GPU, time and batch jobs of a timeshare session in view.",
    autoStart: true,
    requires: [lab.notebook.INotebookTracker, lab.apputils.ICommandPalette],
    optional: [lab.statusbar.IStatusBar, lab.settingregistry.ISettingRegistry],
    activate: (app, tracker, palette, statusBar, settings) => activate(lab, here, { app, tracker, palette, statusBar, settings }),
  };
}

function activate(lab, here, { app, tracker, palette, statusBar, settings }) {
  document.head.append(h("link", { rel: "stylesheet", href: `${here}style.css` }));
  const client = new Client(lab);
  const cells = new Cells(lab, tracker, client);
  const act = async (path, body) => {
    try {
      await client.post(path, body);
    } catch (error) {
      lab.apputils.Notification.error(error.message, { autoClose: 10000 });
    }
  };
  const deeds = makeDeeds(lab, client, cells, act);
  const panel = new Panel(lab, client, act, deeds);
  panel.widget.title.icon = new lab.ui.LabIcon({ name: "timeshare:gpu", svgstr: ICON });
  const open = () => app.shell.activateById(panel.widget.id);
  const commands = {
    open: ["Show GPU, time and jobs", open],
    "extend-2h": ["Extend this session by 2 h", () => act("extend", { seconds: 7200 })],
    "keep-alive": ["Keep this session alive for 1 h, because…", () => deeds.keepAlive(3600)],
    "give-back": ["Give the GPU back", () => deeds.giveBack(client.status.activity?.signals.memory_mib, client.status.activity?.cannot_park)],
    "ask-again": ["Ask for the GPU again", () => act("ask_again")],
    "hand-over": ["Write the running cell as a job", () => cells.handOver()],
  };
  for (const [name, [label, execute]] of Object.entries(commands)) {
    app.commands.addCommand(`timeshare:${name}`, { label, execute, isVisible: () => client.status.here });
    palette.addItem({ command: `timeshare:${name}`, category: "GPU session" });
  }
  app.commands.addCommand("timeshare:run-in-batch", {
    label: "Run in batch",
    caption: "Run this cell as a batch job",
    icon: new lab.ui.LabIcon({ name: "timeshare:run-in-batch", svgstr: RUN_ICON }),
    isEnabled: () => tracker.activeCell?.model.type === "code",
    isVisible: () => client.status.here,
    execute: () => cells.runInBatch(),
  });
  palette.addItem({ command: "timeshare:run-in-batch", category: "GPU session" });
  new Notices(lab, client, act, deeds, () => app.commands.execute("docmanager:save-all").catch(() => {}));
  statusBar?.registerStatusItem("timeshare:status", { align: "left", rank: 1, item: makeStatusItem(lab, client, open) });
  follow(settings, cells);
  // Shown only in a session: elsewhere Lab looks as ever.
  app.restored.then(() => client.start()).then(() => {
    if (client.status.here) app.shell.add(panel.widget, "right", { rank: 900 });
    app.commands.notifyCommandChanged();
  });
}

/** Settings of the person, where Lab has any. */
async function follow(settings, cells) {
  try {
    const mine = await settings?.load("timeshare:plugin");
    const take = () => (cells.offers = mine.get("offerBatch").composite !== false);
    mine?.changed.connect(take);
    if (mine) take();
  } catch {
    // The defaults hold.
  }
}

/** What needs a question or a notebook. */
function makeDeeds(lab, client, cells, act) {
  const { Dialog, InputDialog, Notification, showDialog } = lab.apputils;
  const ask = async (title, text, label) => {
    const body = new lab.widgets.Widget({ node: h("p", {}, text) });
    const buttons = [Dialog.cancelButton(), Dialog.warnButton({ label })];
    return (await showDialog({ title, body, buttons })).button.accept;
  };
  return {
    runningCell: () => cells.runningCell(),
    handOver: () => cells.handOver(),
    /** `cannotPark`: why what kernels hold there cannot be kept; empty: it may be. */
    async giveBack(heldMib, cannotPark) {
      const held =
        heldMib === 0
          ? "No kernel holds GPU memory, so nothing is lost."
          : `Kernels that hold GPU memory${heldMib ? ` (${gib(heldMib)} GiB)` : ""} are ended, after time to save; their variables go. All others stay.`;
      const text = `The notebook and this server stay. ${held} You can ask for the GPU again at any time.`;
      if (heldMib === 0 || cannotPark !== "") {
        if (await ask("Give the GPU back?", text, "Give it back")) await act("give_back");
        return;
      }
      const experimental =
        "Or their GPU state is kept in the node’s memory, and they go on where they are once the GPU is back. " +
        "This is experimental: the state can be lost, so save what matters first.";
      const body = new lab.widgets.Widget({ node: h("div", {}, h("p", {}, text), h("p", {}, experimental)) });
      const end = Dialog.warnButton({ label: "Give it back" });
      const keep = Dialog.warnButton({ label: "Give back and keep its state in memory (experimental)" });
      const { button } = await showDialog({ title: "Give the GPU back?", body, buttons: [Dialog.cancelButton(), keep, end] });
      if (button.accept) await act("give_back", button.label === keep.label ? { park: true } : {});
    },
    async keepAlive(seconds) {
      const asked = await InputDialog.getText({ title: "Keep this session alive, because …", label: "Others who wait for a GPU may read it", okLabel: "Keep alive" });
      if (asked.button.accept && asked.value?.trim()) await act("keep", { seconds, why: asked.value.trim() });
    },
    async showLog(job) {
      try {
        const { text } = await client.log(job.id);
        const body = new lab.widgets.Widget({ node: h("pre", { class: "ts-log", tabindex: 0 }, text || "Nothing was put out yet.") });
        await showDialog({ title: `Log of ${job.name || job.id}`, body, buttons: [Dialog.okButton({ label: "Close" })] });
      } catch (error) {
        Notification.error(error.message, { autoClose: 10000 });
      }
    },
    async attach(job) {
      try {
        await cells.insertAndRun(`%gpu_batch attach ${job.id}`);
      } catch (error) {
        Notification.error(error.message, { autoClose: 10000 });
      }
    },
    async cancel(job) {
      const text = "It is interrupted, and gets time to save; what it put out so far stays.";
      if (await ask(`Cancel ${job.name || job.id}?`, text, "Cancel the job")) await act(`jobs/${job.id}/cancel`);
    },
  };
}
