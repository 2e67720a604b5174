(function () {
  "use strict";
  const root = document.documentElement;
  const variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Colours in the figures are CSS variables; plotly wants values.
  function coloured(value) {
    if (typeof value === "string") {
      const found = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return found ? variable(found[1]) : value;
    }
    if (Array.isArray(value)) {
      return typeof value[0] === "number" ? value : value.map(coloured);
    }
    if (value && typeof value === "object") {
      const copy = {};
      for (const key of Object.keys(value)) copy[key] = coloured(value[key]);
      return copy;
    }
    return value;
  }

  function template() {
    const ink = variable("--ink"), line = variable("--line"), muted = variable("--muted");
    const axis = {
      automargin: true, showline: true, linecolor: line, ticks: "outside", tickcolor: line, ticklen: 4,
      gridcolor: variable("--grid"), zeroline: false, zerolinecolor: line,
      title: { font: { size: 12.5, color: ink }, standoff: 8 }, tickfont: { size: 11.5, color: muted },
    };
    return { layout: {
      font: { family: variable("--font"), size: 12, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 52, r: 14, t: 30, b: 44 },
      xaxis: axis, yaxis: axis,
      legend: { font: { size: 11.5 }, bgcolor: "rgba(0,0,0,0)", itemwidth: 30, tracegroupgap: 2 },
      hoverlabel: { bgcolor: variable("--paper"), bordercolor: line, font: { family: variable("--font"), size: 12, color: ink } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: ink },
    } };
  }

  const config = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    // Nothing of a report leaves the machine.
    showSendToCloud: false, showEditInChartStudio: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  function draw(place) {
    place.dataset.drawn = "yes";
    try {
      const source = document.querySelector('script[data-for="' + place.id + '"]');
      const spec = coloured(JSON.parse(source.textContent));
      spec.layout.template = template();
      window.Plotly.react(place, spec.data, spec.layout, config);
    } catch (error) {
      // One broken figure must not take the others with it.
      place.textContent = "This figure cannot be drawn: " + error.message;
    }
  }

  // What is on the screen is drawn at once, the rest one by one while the browser is idle; folded figures wait.
  const plots = Array.from(document.querySelectorAll(".plot"));
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !entry.target.dataset.drawn) draw(entry.target);
    }
  }, { rootMargin: "400px 0px" });
  plots.forEach((place) => near.observe(place));
  const folded = (place) => place.closest("details:not([open])") !== null;
  const idle = window.requestIdleCallback || ((work) => setTimeout(work, 30));
  function drawNext() {
    const place = plots.find((p) => !p.dataset.drawn && !folded(p));
    if (!place) return;
    draw(place);
    idle(drawNext);
  }
  idle(drawNext);

  function redraw() { plots.filter((place) => place.dataset.drawn).forEach(draw); }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => {
    root.classList.add("light"); // paper is white whatever the screen is
    plots.forEach((place) => { if (!folded(place)) draw(place); });
  });
  window.addEventListener("afterprint", () => { root.classList.remove("light"); redraw(); });

  const toast = document.getElementById("toast");
  let timer = 0;
  function say(words) {
    toast.textContent = words;
    toast.classList.add("shown");
    clearTimeout(timer);
    timer = setTimeout(() => toast.classList.remove("shown"), 1800);
  }
  function copied(words) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(words);
    // Pages opened as files have no clipboard in some browsers; the older way works there.
    const field = document.createElement("textarea");
    field.value = words;
    document.body.appendChild(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("copying was refused"));
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    copied(button.dataset.copy).then(
      () => say("Copied " + button.dataset.copy),
      () => say(button.dataset.copy),
    );
  });

  const links = new Map();
  document.querySelectorAll("nav a").forEach((link) => links.set(link.getAttribute("href").slice(1), link));
  const sections = Array.from(document.querySelectorAll("main > section[id]")).filter((s) => links.has(s.id));
  function mark() {
    let here = sections[0];
    for (const section of sections) {
      if (section.getBoundingClientRect().top < window.innerHeight * 0.35) here = section;
    }
    links.forEach((link, id) => {
      const is = here && id === here.id;
      link.classList.toggle("here", is);
      if (is) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    });
  }
  window.addEventListener("scroll", mark, { passive: true });
  mark();
})();
