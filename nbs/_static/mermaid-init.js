// Draw the diagrams of the page in the colours of the page, again whenever the reader switches light and dark.
(() => {
  const diagrams = [...document.querySelectorAll("pre.mermaid")];
  const sources = diagrams.map((diagram) => diagram.textContent);
  const mode = () => document.documentElement.dataset.theme; // set by the theme's script, a little later
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let drawn = null;
  let queue = Promise.resolve(); // one drawing at a time: two would write into the same element

  const settings = () => ({
    startOnLoad: false,
    securityLevel: "strict",
    theme: "base",
    look: "classic",
    fontFamily: getComputedStyle(document.body).fontFamily,
    flowchart: { wrappingWidth: 260 },
    themeVariables: {
      darkMode: mode() === "dark",
      background: colour("--pst-color-background"),
      primaryColor: colour("--pst-color-surface"),
      primaryTextColor: colour("--pst-color-text-base"),
      primaryBorderColor: colour("--pst-color-primary"),
      lineColor: colour("--pst-color-text-muted"),
      textColor: colour("--pst-color-text-base"),
      edgeLabelBackground: colour("--pst-color-background"),
      fontSize: "15px",
    },
  });

  // A diagram a little too wide shrinks; a wide one keeps its size, and scrolls.
  const fit = (diagram) => {
    const svg = diagram.querySelector("svg");
    const natural = svg.viewBox.baseVal.width;
    svg.style.maxWidth = `${natural}px`;
    svg.style.minWidth = natural > 1.3 * diagram.clientWidth ? `${Math.min(natural, 1400)}px` : "0";
  };

  const draw = async () => {
    if (!mode() || drawn === mode()) return;
    drawn = mode();
    mermaid.initialize(settings());
    diagrams.forEach((diagram, i) => {
      diagram.removeAttribute("data-processed");
      diagram.textContent = sources[i];
    });
    await mermaid.run({ nodes: diagrams });
    diagrams.forEach(fit);
  };
  const enqueue = () => { queue = queue.then(draw); };

  mermaid.initialize({ startOnLoad: false });
  // The colours are known once the style sheets are there.
  window.addEventListener("load", () => {
    enqueue();
    new MutationObserver(enqueue).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  });
})();
