// Theme, horizon, and, where a server stands behind the page, staying up to date.
"use strict";
(() => {
  const root = document.documentElement;
  const find = (selector, from = document) => from.querySelector(selector);
  const each = (selector, act) => document.querySelectorAll(selector).forEach(act);
  root.classList.remove("no-script");

  // --- theme: as the system has it, or as the reader chose -------------------------------------
  const THEMES = ["auto", "light", "dark"];
  const keep = {
    get() { try { return localStorage.getItem("bb-wm-theme"); } catch { return null; } },
    set(theme) { try { localStorage.setItem("bb-wm-theme", theme); } catch { /* not kept */ } },
  };
  let theme = THEMES.includes(keep.get()) ? keep.get() : "auto";
  const button = find("#theme");
  function wear() {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  }
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    keep.set(theme);
    wear();
  });
  button.hidden = false;
  wear();

  // --- horizon: how much of what was imagined is shown ------------------------------------------
  const number = (value) => (Number.isFinite(value) ? String(+value.toPrecision(3)) : "–");
  let chosen = null;

  function tell(data, k) {
    const errors = data.paths
      .filter((path) => Number.isFinite(path.nrmse[k - 1]))
      .map((path) => `${path.name} ${number(path.nrmse[k - 1])}`);
    const parts = [];
    if (errors.length) parts.push(`NRMSE at ${k}: ${errors.join(", ")}.`);
    const inside = data.inside[k - 1];
    if (inside && inside[1]) {
      const share = Math.round((100 * inside[0]) / inside[1]);
      parts.push(`${share} % of the real values shown lie inside the 90 % band.`);
    }
    return parts.join(" ");
  }

  function show(data, k) {
    chosen = k;
    find("#horizon-value").textContent = `${k} of ${data.reach}`;
    find("#horizon").setAttribute("aria-valuetext", `${k} of ${data.reach} steps`);
    find("#horizon-told").textContent = tell(data, k);
    each("[data-reveal]", (shape) => {
      const [start, step] = shape.dataset.reveal.split(" ").map(Number);
      shape.setAttribute("width", start + step * k);
    });
    each("[data-cursor]", (line) => {
      const [start, step] = line.dataset.cursor.split(" ").map(Number);
      const x = start + step * k;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    });
    each("[data-frame]", (view) => {
      const [width, height] = view.dataset.frame.split(" ").map(Number);
      view.setAttribute("viewBox", `${(k - 1) * width} 0 ${width} ${height}`);
    });
    each("[data-marker]", (box) => {
      box.setAttribute("x", (k - 1) * Number(box.dataset.marker));
      const strip = box.closest(".strip");
      strip.scrollLeft = (strip.scrollWidth * (k - 0.5)) / data.reach - strip.clientWidth / 2;
    });
    each("[data-step]", (words) => { words.textContent = `k = ${k}`; });
  }

  function prepare() {
    const holder = find("#page-data");
    const slider = find("#horizon");
    if (!holder || !slider) return;
    const data = JSON.parse(holder.textContent);
    slider.max = data.reach;
    slider.value = Math.min(chosen ?? data.reach, data.reach);
    slider.addEventListener("input", () => show(data, Number(slider.value)));
    show(data, Number(slider.value));
  }
  prepare();

  // --- live: ask the server that this page came from whether there is something new -------------
  const status = find("#status");
  if (!status) return;
  const pace = Number(status.dataset.every);
  let stamp = status.dataset.stamp;

  async function renew() {
    const text = await (await fetch("/", { cache: "no-store" })).text();
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const open = new Set([...document.querySelectorAll("details[open][id]")].map((one) => one.id));
    const focused = document.activeElement && document.activeElement.id;
    for (const place of ["#nav", "#head", "#main"]) find(place).replaceWith(find(place, fresh));
    open.forEach((id) => { const one = document.getElementById(id); if (one) one.open = true; });
    prepare();
    if (focused && document.getElementById(focused)) document.getElementById(focused).focus();
  }

  async function poll() {
    try {
      const news = await (await fetch("/state.json", { cache: "no-store" })).json();
      status.textContent = news.status;
      if (news.stamp !== stamp) { await renew(); stamp = news.stamp; }
    } catch {
      status.textContent = "No answer from bb-wm inspect: what is shown stays as it was.";
    }
    setTimeout(poll, pace);
  }
  setTimeout(poll, pace);
})();
