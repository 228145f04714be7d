"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const sections = [...document.querySelectorAll("section[data-layer]")];
  const current = () => sections.find((s) => !s.classList.contains("hidden"));

  function sort(button) {
    const table = button.closest("table"), head = button.closest("th"), body = table.tBodies[0];
    const column = Number(button.dataset.key);
    // Numbers begin with the largest, names and the channel's own number with the first.
    const rows = [...body.rows], value = (row) => row.cells[column].dataset.v;
    const numeric = rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
    const first = numeric && column > 0 ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === ""); // empty ones last
      return sign * (numeric ? value(a) - value(b) : value(a).localeCompare(value(b)));
    };
    body.append(...rows.sort(compare));
    for (const cell of head.parentElement.cells) cell.setAttribute("aria-sort", cell === head ? order : "none");
  }
  document.querySelectorAll("thead button").forEach((button) => button.addEventListener("click", () => sort(button)));

  function search() {
    const query = get("search").value.trim().toLowerCase(), rows = [...current().querySelector("tbody").rows];
    let hits = 0;
    for (const row of rows) {
      const number = /^\d+$/.test(query);
      const hit = number ? row.cells[0].textContent === query : row.textContent.toLowerCase().includes(query);
      row.classList.toggle("hidden", !hit);
      hits += hit;
    }
    get("found").textContent = query ? `${hits} of ${rows.length}` : "";
  }
  get("search").addEventListener("input", search);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT)$/.test(event.target.tagName)) {
      event.preventDefault();
      get("search").focus();
    }
  });
  const layer = get("layer");
  if (layer) layer.addEventListener("change", () => {
    sections.forEach((s) => s.classList.toggle("hidden", s.dataset.layer !== layer.value));
    search();
  });
})();
