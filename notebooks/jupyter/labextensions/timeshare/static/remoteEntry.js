// What JupyterLab loads first: a container of module federation, as its extensions are. Written by hand, so that
// nothing has to be built: the modules beside it are loaded as they are, and get Lab's own modules from its share scope.
(() => {
  const here = new URL(".", document.currentScript.src).href;
  const SHARED = {
    application: "@jupyterlab/application",
    apputils: "@jupyterlab/apputils",
    coreutils: "@jupyterlab/coreutils",
    notebook: "@jupyterlab/notebook",
    services: "@jupyterlab/services",
    settingregistry: "@jupyterlab/settingregistry",
    statusbar: "@jupyterlab/statusbar",
    ui: "@jupyterlab/ui-components",
    widgets: "@lumino/widgets",
  };
  let scope = null;

  async function shared(name) {
    const versions = scope[name];
    const factory = await Object.values(versions)[0].get();
    return factory();
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["timeshare"] = {
    init(given) {
      scope = given;
    },
    async get() {
      const { makePlugin } = await import(`${here}plugin.js`);
      const found = await Promise.all(Object.values(SHARED).map(shared));
      const lab = Object.fromEntries(Object.keys(SHARED).map((name, i) => [name, found[i]]));
      const plugin = makePlugin(lab, here);
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
