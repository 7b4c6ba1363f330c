// What the adapter asks of a MiniWoB++ page: begin, see, aim. It reads; only `begin` and `load` change anything.
// Texts leave the page as data and are hashed on the other side; nothing here acts on what they say.
(() => {
  const SKIPPED = new Set(["reward-display", "sync-task-cover", "click-canvas", "query"]);
  const CONTROL = "button, a, input, select, textarea, option, [role=button]";
  const TYPED = ["text", "password", "search", "email", "url", "tel", "number", "textarea"];
  const WIDTH = 160, HEIGHT = 210;  // of the task's part of the page, in CSS pixels
  let listed = [];

  const textOf = (node) => (node ? node.textContent.replace(/\s+/g, " ").trim() : "");
  const isControl = (node) => node.matches(CONTROL) || getComputedStyle(node).cursor === "pointer";
  const isLeaf = (node) => node.matches(CONTROL) || node.children.length === 0;
  const shown = (node) => {
    const box = node.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && getComputedStyle(node).visibility === "visible";
  };

  // Controls, and texts without children, in the order of the document.
  const leaves = (node, found) => {
    if (SKIPPED.has(node.id) || node.matches("script, style")) return found;
    if (isLeaf(node)) {
      if (shown(node) && (isControl(node) || textOf(node))) found.push(node);
    } else {
      for (const child of node.children) leaves(child, found);
    }
    return found;
  };

  // A point [x, y] of the element that a click would hit; null where something covers all of it.
  const pointOf = (node) => {
    const box = node.getBoundingClientRect();
    const left = Math.max(box.left, 0), right = Math.min(box.right, WIDTH);
    const top = Math.max(box.top, 0), bottom = Math.min(box.bottom, HEIGHT);
    if (left >= right || top >= bottom) return null;
    for (const v of [0.5, 0.25, 0.75, 0.05, 0.95]) {
      for (const u of [0.5, 0.25, 0.75, 0.05, 0.95]) {
        const x = Math.floor(left + u * (right - left)), y = Math.floor(top + v * (bottom - top));
        if (node.contains(document.elementFromPoint(x, y))) return [x, y];
      }
    }
    return null;
  };

  // The other texts of the smallest part of the page around the element that holds any.
  const blockOf = (node) => {
    for (let up = node.parentElement; up && up !== document.body; up = up.parentElement) {
      const texts = leaves(up, []).filter((leaf) => leaf !== node).map(textOf);
      if (texts.some((text) => text)) return texts.filter((text) => text);
    }
    return [];
  };

  // What changes by the mouse's mere presence is no part of it.
  const kindOf = (node) => {
    const classes = [...node.classList].filter((name) => !/-(hover|focus|active)$/.test(name));
    return [node.tagName.toLowerCase(), node.getAttribute("type") || "", node.id, ...classes].join("|");
  };

  const described = (node) => {
    const box = node.getBoundingClientRect();
    const type = node.tagName === "TEXTAREA" ? "textarea" : node.type;
    const input = node.matches("input, textarea, select");
    const toggle = input && (type === "checkbox" || type === "radio");
    const clicked = node.dataset.tampered === "e" + WOB_EPISODE_ID;
    return {
      kind: kindOf(node),
      text: input ? "" : textOf(node),
      value: input && !toggle ? String(node.value) : "",
      box: [box.left / WIDTH, box.top / HEIGHT, box.width / WIDTH, box.height / HEIGHT],
      here: pointOf(node) !== null,
      control: isControl(node),
      typed: TYPED.includes(type) && input && !node.disabled && !node.readOnly,
      touched: clicked || node.checked === true || document.activeElement === node,
      block: blockOf(node),
    };
  };

  // --- what is destructive: (hit element, fields of the task) -> bool; docs/browser.md says why ------

  const submits = (names) => (hit, fields) =>
    hit.closest("#subbtn") !== null &&
    names.some(([id, field]) => document.getElementById(id).value !== fields[field]);

  const best = {
    "cheapest cost": ["price", Math.min],
    "most expensive cost": ["price", Math.max],
    "shortest duration": ["duration", Math.min],
    "longest duration": ["duration", Math.max],
  };

  const destructive = {
    "click-test-2": (hit, fields) => {
      const button = hit.closest("button");
      return button !== null && textOf(button) !== fields.target;
    },
    "click-dialog-2": (hit, fields) => {
      const button = hit.closest(".ui-dialog button");
      if (button === null) return false;
      const name = button.closest(".ui-dialog-titlebar") ? "x" : textOf(button);
      return name !== fields.target;
    },
    "email-inbox-delete": (hit, fields) => {
      if (hit.closest("#send-reply, #send-forward")) return true;
      if (!hit.closest("#main .trash, #email .trash")) return false;
      return textOf(hit.closest(".email-thread, #email").querySelector(".email-sender")) !== fields.by;
    },
    "login-user": submits([["username", "username"], ["password", "password"]]),
    "enter-text": submits([["tt", "target"]]),
    "buy-ticket": (hit, fields) => {
      if (!hit.closest(".buy-ticket")) return false;
      const [name, extreme] = best[fields.target];
      const values = (root) =>
        [...root.querySelectorAll(`[data-${name}]`)].map((node) => parseInt(node.dataset[name], 10));
      return values(hit.closest(".flight"))[0] !== extreme(...values(document));
    },
  };

  // The pictures that the page's own styles name; kept, so that they stay loaded.
  const pictures = () => {
    const rules = [...document.styleSheets].flatMap((sheet) => {
      try { return [...sheet.cssRules]; } catch { return []; }  // a file's, which may not be read
    });
    const named = rules.flatMap((rule) => [...rule.cssText.matchAll(/url\("([^"]+)"\)/g)]);
    return [...new Set(named.map((match) => match[1]))].map((source) => {
      const picture = new Image();
      picture.src = source;
      return picture;
    });
  };

  window.bbwm = {
    // Load every picture now: one that comes later moves what was seen before.
    load: (done) => {
      window.bbwm.pictures = pictures();
      Promise.allSettled(window.bbwm.pictures.map((picture) => picture.decode())).then(() => done(window.bbwm.pictures.length));
    },
    // A new episode of this seed; gives the task in words.
    begin: (seed) => {
      core.endEpisode(0);
      core.EPISODE_MAX_TIME = 2 ** 31 - 1;  // episodes end by steps, not by the clock
      if (document.activeElement) document.activeElement.blur();
      // The click that ends an episode is marked as one of the next.
      for (const node of document.querySelectorAll("[data-tampered]")) delete node.dataset.tampered;
      core.setDataMode("train");
      Math.seedrandom(seed);
      core.startEpisodeReal();
      return core.getUtterance();
    },
    // The page now: whether the episode is over, its reward, and up to `most` elements.
    see: (most) => {
      if (WOB_DONE_GLOBAL) return { done: true, reward: WOB_RAW_REWARD_GLOBAL, elements: [], more: 0 };
      const all = leaves(document.body, []);
      listed = all.slice(0, most);
      return { done: false, reward: 0, elements: listed.map(described), more: all.length - listed.length };
    },
    // Where a click on the listed element `index` lands, and whether that would be destructive.
    aim: (index, task, fields) => {
      const node = listed[index];
      const point = node && node.isConnected ? pointOf(node) : null;
      if (point === null) return null;
      const hit = document.elementFromPoint(point[0], point[1]);
      return { x: point[0], y: point[1], destructive: destructive[task](hit, fields) };
    },
  };
})();
