"use strict";
(() => {
  const root = document.documentElement;
  const flip = () => {
    const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("vizkit-theme", root.dataset.theme); } catch { /* private */ }
    document.dispatchEvent(new Event("themechange"));
  };
  document.getElementById("theme").addEventListener("click", flip);
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "t" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) flip();
  });
})();
