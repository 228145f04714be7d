"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const count = data.names.length;
  const get = (id) => document.getElementById(id);
  const stage = get("stage"), map = get("map"), card = get("card"), chosen = get("chosen");
  const context = map.getContext("2d");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  // --- what is drawn from ---

  const sheets = data.sheets.map((uri) => {
    const picture = new Image();
    picture.onload = () => redraw();
    picture.src = uri;
    return picture;
  });
  const onSheet = data.columns * data.columns;
  const added = new Set(data.added);
  const lower = data.names.map((name, k) =>
    [name, ...data.groupings.map((g) => (g.of[k] >= 0 ? g.names[g.of[k]] : ""))].join("\n").toLowerCase());
  const priority = Float64Array.from({ length: count }, (_, k) => (k * 0.6180339887498949) % 1);
  const byPriority = Array.from({ length: count }, (_, k) => k).sort((a, b) => priority[a] - priority[b]);
  const gridWide = Math.max(...data.cells.map((c) => c[1])) + 1;
  const layouts = {
    map: { x: data.x, y: data.y },
    grid: {
      x: data.cells.map((c) => (c[1] + 0.5) / gridWide),
      y: data.cells.map((c) => (c[0] + 0.5) / gridWide),
    },
  };

  const state = {
    layout: "map", share: 0, by: 0, hidden: new Set(), query: "", hover: -1, chosen: -1,
    view: { x: 0.5, y: 0.5, scale: 1 }, fitted: 1, size: [0, 0],
  };

  const mixed = (axis, k) => {
    const from = layouts.map[axis][k], to = layouts.grid[axis][k];
    return from + (to - from) * state.share;
  };
  const toScreen = (k) => [
    (mixed("x", k) - state.view.x) * state.view.scale + state.size[0] / 2,
    (mixed("y", k) - state.view.y) * state.view.scale + state.size[1] / 2,
  ];
  const isDark = () => getComputedStyle(document.documentElement).getPropertyValue("--dark").trim() === "1";
  const shadeOf = (k) => {
    const g = data.groupings[state.by];
    return g.of[k] < 0 ? "#8a8f96" : g[isDark() ? "dark" : "light"][g.of[k]];
  };
  const isHidden = (k) => state.hidden.has(data.groupings[state.by].of[k]);
  const matches = (k) => !state.query || lower[k].includes(state.query);

  function paste(target, k, x, y, side) {
    const sheet = sheets[Math.floor(k / onSheet)];
    if (!sheet.complete || !sheet.naturalWidth) return [0, 0];
    const place = k % onSheet, [w, h] = data.sizes[k], scale = side / Math.max(w, h);
    const left = (place % data.columns) * data.side, top = Math.floor(place / data.columns) * data.side;
    target.drawImage(sheet, left, top, w, h, x - (w * scale) / 2, y - (h * scale) / 2, w * scale, h * scale);
    return [w * scale, h * scale];
  }

  // --- drawing ---

  let due = false, drawn = [];
  function redraw() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; draw(); });
  }

  function sideOf(visible) {
    const room = state.size[0] * state.size[1];
    const apart = Math.min(170, Math.max(16, 0.62 * Math.sqrt(room / Math.max(24, visible))));
    const cell = (0.94 * state.view.scale) / gridWide;
    return apart + (cell - apart) * state.share;
  }

  function draw() {
    const ratio = devicePixelRatio || 1, [wide, tall] = state.size;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, wide, tall);
    context.imageSmoothingQuality = "high";
    const places = Array.from({ length: count }, (_, k) => toScreen(k));
    const inside = byPriority.filter((k) => {
      const [x, y] = places[k];
      return x > -90 && y > -90 && x < wide + 90 && y < tall + 90 && !isHidden(k);
    });
    const side = sideOf(inside.length);
    const near = new Set(state.chosen >= 0 ? data.neighbours[state.chosen] : []);
    const first = (k) => k === state.chosen || near.has(k) || (state.query && matches(k));
    const order = [...inside.filter(first), ...inside.filter((k) => !first(k))];
    const shown = state.share > 0.98 ? order : withRoom(order, places, side);
    const isShown = new Set(shown);
    const dot = Math.max(2, Math.min(5, side / 12));
    for (const k of inside) {
      if (isShown.has(k)) continue;
      context.globalAlpha = matches(k) ? 1 : 0.2;
      context.fillStyle = shadeOf(k);
      context.beginPath();
      context.arc(places[k][0], places[k][1], dot, 0, 7);
      context.fill();
    }
    if (state.chosen >= 0) drawLines(places);
    drawn = [];
    for (const k of shown.reverse()) drawPicture(k, places[k], side, near);
    context.globalAlpha = 1;
    map.dataset.shown = String(shown.length);
  }

  function drawLines(places) {
    context.globalAlpha = 0.6;
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--mark");
    context.lineWidth = 1.5;
    for (const other of data.neighbours[state.chosen]) {
      if (other < 0) continue;
      context.beginPath();
      context.moveTo(...places[state.chosen]);
      context.lineTo(...places[other]);
      context.stroke();
    }
  }

  function drawPicture(k, [x, y], side, near) {
    const marked = k === state.chosen || k === state.hover;
    const larger = k === state.chosen ? side * 1.35 : side;
    const [w, h] = data.sizes[k], scale = larger / Math.max(w, h);
    const line = marked ? 4 : near.has(k) || added.has(k) ? 3 : Math.max(1, Math.min(2.5, side / 26));
    context.globalAlpha = matches(k) ? 1 : 0.16;
    context.fillStyle = marked || near.has(k)
      ? getComputedStyle(document.documentElement).getPropertyValue("--mark") : shadeOf(k);
    const wide = w * scale + 2 * line, tall = h * scale + 2 * line;
    context.fillRect(x - wide / 2, y - tall / 2, wide, tall);
    paste(context, k, x, y, larger);
    drawn.push([k, x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2]);
  }

  // Thumbnails that would hide one another become dots; the order decides which stay.
  function withRoom(order, places, side) {
    const apart = side * 0.86, taken = new Map(), kept = [];
    for (const k of order) {
      const [x, y] = places[k], column = Math.floor(x / apart), row = Math.floor(y / apart);
      let free = true;
      for (let a = -1; a <= 1 && free; a++) for (let b = -1; b <= 1 && free; b++) {
        for (const other of taken.get(`${column + a},${row + b}`) || []) {
          if (Math.abs(places[other][0] - x) < apart && Math.abs(places[other][1] - y) < apart) free = false;
        }
      }
      if (!free && k !== state.chosen) continue;
      const key = `${column},${row}`;
      if (!taken.has(key)) taken.set(key, []);
      taken.get(key).push(k);
      kept.push(k);
    }
    return kept;
  }

  // --- the view ---

  function bounds() {
    const at = layouts[state.layout];
    const low = [Math.min(...at.x), Math.min(...at.y)], high = [Math.max(...at.x), Math.max(...at.y)];
    return { low, high };
  }
  function fit() {
    const { low, high } = bounds(), [wide, tall] = state.size;
    const margin = state.layout === "grid" ? 0.5 / gridWide : 0.05;
    const spanX = high[0] - low[0] + 2 * margin, spanY = high[1] - low[1] + 2 * margin;
    const bar = 50; // the buttons at the top hide nothing
    const scale = Math.min(wide / spanX, Math.max(80, tall - bar) / spanY) * 0.98;
    state.fitted = scale;
    return { x: (low[0] + high[0]) / 2, y: (low[1] + high[1]) / 2 - bar / 2 / scale, scale };
  }
  let running = 0;
  function glide(view, share = state.share) {
    const from = { ...state.view, share: state.share }, began = performance.now(), mine = ++running;
    const step = (now) => {
      if (mine !== running) return;
      const t = still ? 1 : Math.min(1, (now - began) / 420), eased = 1 - (1 - t) ** 3;
      state.view = {
        x: from.x + (view.x - from.x) * eased,
        y: from.y + (view.y - from.y) * eased,
        scale: from.scale * (view.scale / from.scale) ** eased,
      };
      state.share = from.share + (share - from.share) * eased;
      redraw();
      if (t < 1) requestAnimationFrame(step); else map.dataset.moving = "";
    };
    map.dataset.moving = "yes";
    requestAnimationFrame(step);
  }
  function zoom(factor, x = state.size[0] / 2, y = state.size[1] / 2) {
    running++;
    map.dataset.moving = "";
    const view = state.view;
    const scale = Math.min(state.fitted * 400, Math.max(state.fitted * 0.5, view.scale * factor));
    const dx = x - state.size[0] / 2, dy = y - state.size[1] / 2;
    state.view = {
      x: view.x + dx / view.scale - dx / scale, y: view.y + dy / view.scale - dy / scale, scale,
    };
    redraw();
  }
  function move(dx, dy) {
    running++;
    map.dataset.moving = "";
    state.view = { ...state.view, x: state.view.x - dx / state.view.scale, y: state.view.y - dy / state.view.scale };
    redraw();
  }
  function setLayout(name) {
    state.layout = name;
    get("layout").textContent = name === "map" ? "Grid" : "Map";
    map.dataset.layout = name;
    glide(fit(), name === "grid" ? 1 : 0);
  }

  // --- choosing ---

  function pick(x, y) {
    for (let i = drawn.length - 1; i >= 0; i--) {
      const [k, left, top, right, bottom] = drawn[i];
      if (x >= left && x <= right && y >= top && y <= bottom) return k;
    }
    return closest(x, y, 12);
  }
  function closest(x, y, most) {
    let best = -1, far = most;
    for (let k = 0; k < count; k++) {
      if (isHidden(k)) continue;
      const [a, b] = toScreen(k), distance = Math.hypot(a - x, b - y);
      if (distance < far) { far = distance; best = k; }
    }
    return best;
  }
  function pictureOf(k, side) {
    const canvas = document.createElement("canvas"), [w, h] = data.sizes[k], ratio = devicePixelRatio || 1;
    const scale = side / Math.max(w, h);
    canvas.width = Math.round(w * scale * ratio);
    canvas.height = Math.round(h * scale * ratio);
    canvas.style.width = `${Math.round(w * scale)}px`;
    const inner = canvas.getContext("2d");
    inner.imageSmoothingQuality = "high";
    paste(inner, k, canvas.width / 2, canvas.height / 2, side * ratio);
    return canvas;
  }
  function words(k) {
    const said = data.groupings.filter((g) => g.of[k] >= 0).map((g) => `${g.name}: ${g.names[g.of[k]]}`);
    return [...new Set(said)].concat(added.has(k) ? ["placed afterwards"] : []).join(" · ");
  }
  function hover(k, x, y) {
    if (k !== state.hover) {
      state.hover = k;
      map.dataset.hover = k < 0 ? "" : data.names[k];
      card.classList.toggle("hidden", k < 0);
      if (k >= 0) {
        const name = document.createElement("p"), more = document.createElement("small");
        name.textContent = data.names[k];
        more.textContent = words(k);
        card.replaceChildren(pictureOf(k, 200), name, more);
      }
      redraw();
    }
    if (k < 0) return;
    const [wide, tall] = state.size, { offsetWidth: w, offsetHeight: h } = card;
    card.style.left = `${x + 18 + w < wide ? x + 18 : Math.max(4, x - 18 - w)}px`;
    card.style.top = `${Math.max(4, Math.min(tall - h - 4, y - h / 2))}px`;
  }
  function choose(k, centre = false) {
    state.chosen = k;
    map.dataset.chosen = k < 0 ? "" : data.names[k];
    chosen.classList.toggle("hidden", k < 0);
    if (k >= 0) {
      const title = document.createElement("h2"), more = document.createElement("small");
      const near = document.createElement("div"), label = document.createElement("p");
      title.textContent = data.names[k];
      more.textContent = words(k);
      label.textContent = "Nearest in the features";
      near.id = "near";
      for (const other of data.neighbours[k].filter((n) => n >= 0)) {
        const button = document.createElement("button");
        button.type = "button";
        button.title = data.names[other];
        button.setAttribute("aria-label", data.names[other]);
        button.append(pictureOf(other, 66));
        button.addEventListener("click", () => choose(other, true));
        near.append(button);
      }
      chosen.replaceChildren(pictureOf(k, 130), title, more, ...(near.children.length ? [label, near] : []));
      if (centre) {
        const scale = Math.max(state.view.scale, state.fitted * 2);
        glide({ x: mixed("x", k), y: mixed("y", k), scale });
      }
    }
    redraw();
  }
  function search(text) {
    state.query = text.trim().toLowerCase();
    const hits = state.query ? data.names.map((_, k) => k).filter((k) => matches(k) && !isHidden(k)) : [];
    get("found").textContent = state.query ? `${hits.length} of ${count}` : "";
    redraw();
    return hits;
  }

  // --- the side ---

  function legend() {
    const g = data.groupings[state.by], counts = new Map();
    for (const k of g.of) counts.set(k, (counts.get(k) || 0) + 1);
    const groups = [...counts.keys()].sort((a, b) => (a < 0) - (b < 0) || counts.get(b) - counts.get(a) || a - b);
    get("legend").replaceChildren(...groups.map((group) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const swatch = document.createElement("i"), name = document.createElement("span");
      const number = document.createElement("b");
      button.type = "button";
      button.title = "Hide or show; with Shift only this one";
      button.setAttribute("aria-pressed", String(!state.hidden.has(group)));
      swatch.style.background = group < 0 ? "#8a8f96" : g[isDark() ? "dark" : "light"][group];
      name.textContent = group < 0 ? "none" : g.names[group];
      number.textContent = counts.get(group);
      button.append(swatch, name, number);
      button.addEventListener("click", (event) => {
        const others = groups.filter((other) => other !== group);
        if (event.shiftKey) {
          const alone = others.every((other) => state.hidden.has(other)) && !state.hidden.has(group);
          state.hidden = new Set(alone ? [] : others);
        } else if (!state.hidden.delete(group)) state.hidden.add(group);
        refresh(group);
      });
      button.dataset.group = group;
      item.append(button);
      return item;
    }));
  }
  function refresh(group) {
    legend();
    const button = group === undefined ? null : get("legend").querySelector(`[data-group="${group}"]`);
    if (button) button.focus();
    search(get("search").value);
  }
  data.groupings.forEach((g, k) => get("by").add(new Option(`the ${g.name}`, k)));
  get("by").addEventListener("change", () => {
    state.by = Number(get("by").value);
    state.hidden = new Set();
    refresh();
  });
  get("search").addEventListener("input", () => search(get("search").value));
  get("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      const hits = search(get("search").value);
      if (hits.length) choose(hits[(hits.indexOf(state.chosen) + 1) % hits.length], true);
    } else if (event.key === "Escape") {
      get("search").value = "";
      search("");
      map.focus();
    }
  });

  // --- pointers and keys ---

  const pointers = new Map();
  let dragged = 0;
  const at = (event) => {
    const box = map.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    if (pointers.size === 1) dragged = 0;
  });
  map.addEventListener("pointermove", (event) => {
    const [x, y] = at(event), before = pointers.get(event.pointerId);
    if (!before) { hover(pick(x, y), x, y); return; }
    if (pointers.size === 1) {
      dragged += Math.hypot(x - before[0], y - before[1]);
      if (dragged > 4) {
        map.classList.add("dragging");
        hover(-1);
        move(x - before[0], y - before[1]);
      }
    } else {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const old = Math.hypot(before[0] - other[0], before[1] - other[1]);
      const now = Math.hypot(x - other[0], y - other[1]);
      dragged = 99;
      move((x - before[0]) / 2, (y - before[1]) / 2);
      if (old > 0) zoom(now / old, (x + other[0]) / 2, (y + other[1]) / 2);
    }
    pointers.set(event.pointerId, [x, y]);
  });
  const release = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (!pointers.size) map.classList.remove("dragging");
    if (event.type === "pointerup" && dragged <= 4 && !pointers.size) choose(pick(...at(event)));
  };
  map.addEventListener("pointerup", release);
  map.addEventListener("pointercancel", release);
  map.addEventListener("pointerleave", () => hover(-1));
  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 18 : event.deltaMode === 2 ? 200 : 1;
    zoom(Math.exp(-Math.max(-160, Math.min(160, event.deltaY * lines)) * 0.0022), ...at(event));
    hover(-1);
  }, { passive: false });
  map.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
  const steps = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
  map.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (steps[event.key]) { event.preventDefault(); move(...steps[event.key]); }
    if (event.key === "Enter") choose(closest(state.size[0] / 2, state.size[1] / 2, Infinity));
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); get("search").focus(); }
    if (event.key === "+" || event.key === "=") zoom(1.4);
    if (event.key === "-") zoom(1 / 1.4);
    if (event.key === "0") glide(fit());
    if (event.key === "g") setLayout(state.layout === "map" ? "grid" : "map");
    if (event.key === "Escape") choose(-1);
  });
  get("in").addEventListener("click", () => zoom(1.6));
  get("out").addEventListener("click", () => zoom(1 / 1.6));
  get("all").addEventListener("click", () => glide(fit()));
  get("layout").addEventListener("click", () => setLayout(state.layout === "map" ? "grid" : "map"));
  document.addEventListener("themechange", () => { legend(); redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { legend(); redraw(); });

  new ResizeObserver(() => {
    const begun = state.size[0] > 0, ratio = devicePixelRatio || 1, before = state.fitted;
    state.size = [stage.clientWidth, stage.clientHeight];
    map.width = Math.round(state.size[0] * ratio);
    map.height = Math.round(state.size[1] * ratio);
    const whole = fit();
    state.view = begun ? { ...state.view, scale: (state.view.scale * whole.scale) / before } : whole;
    draw();
  }).observe(stage);

  map.dataset.layout = "map";
  legend();
  // For scripts on the page and for tests: where a picture stands on the screen, and what is drawn.
  globalThis.vizkit = {
    at: (name) => toScreen(data.names.indexOf(name)),
    isDrawn: (name) => drawn.some(([k]) => data.names[k] === name),
    view: () => ({ ...state.view }),
  };
})();
