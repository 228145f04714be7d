// Search, and the arrow keys for the pages before and after.
(() => {
  const field = document.getElementById("search");
  const list = document.getElementById("found");
  const all = window.vizkitSearch || [];
  field.parentElement.hidden = false;
  const find = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    list.replaceChildren();
    if (!words.length) return;
    const hits = all.filter(([text]) => words.every((w) => text.toLowerCase().includes(w))).slice(0, 12);
    for (const [text, url] of hits) {
      const link = document.createElement("a");
      link.href = field.dataset.root + url;
      link.textContent = text;
      const item = document.createElement("li");
      item.append(link);
      list.append(item);
    }
    if (!hits.length) list.append(Object.assign(document.createElement("li"), { textContent: "nothing found" }));
  };
  field.addEventListener("input", find);
  const move = (event, step) => {
    const links = [...list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement) + step;
    (at < 0 ? field : links[Math.min(at, links.length - 1)])?.focus();
    event.preventDefault();
  };
  field.parentElement.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") move(event, 1);
    else if (event.key === "ArrowUp") move(event, -1);
    else if (event.key === "Escape") { field.value = ""; find(); field.focus(); }
    else if (event.key === "Enter" && event.target === field) { const first = list.querySelector("a"); if (first) location.href = first.href; }
  });
  document.addEventListener("keydown", (event) => {
    if (/^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(event.target.tagName) || document.querySelector("dialog[open]")) return;
    const name = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = name && document.querySelector(`a[rel=${name}]`);
    if (link) location.href = link.href;
  });
})();
