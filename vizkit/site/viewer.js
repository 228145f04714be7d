"use strict";
// Lightbox, before/after and step sliders, copy buttons. Without this script every picture is there too.
(() => {
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };
  const typing = (node) => /^(INPUT|SELECT|TEXTAREA)$/.test(node.tagName);

  // --- lightbox ---
  const image = make("img", { alt: "" });
  const words = make("p");
  const button = (name, sign, label) => make("button", { type: "button", className: name, textContent: sign, ariaLabel: label });
  const close = button("close", "×", "Close");
  const back = button("back", "‹", "Previous picture");
  const next = button("next", "›", "Next picture");
  const box = make("dialog", { ariaLabel: "Picture" }, image, words, back, next, close);
  document.body.append(box);
  const seen = () => [...document.querySelectorAll("a[data-view]")].filter((a) => a.getClientRects().length);
  let links = [];
  let at = 0;
  const show = (number) => {
    at = (number + links.length) % links.length;
    const own = links[at].querySelector("img");
    image.src = links[at].href;
    image.alt = own.alt;
    words.textContent = own.alt;
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-view]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    links = seen();
    show(links.indexOf(link));
    box.showModal();
    close.focus();
  });
  close.addEventListener("click", () => box.close());
  back.addEventListener("click", () => show(at - 1));
  next.addEventListener("click", () => show(at + 1));
  box.addEventListener("click", (event) => { if (event.target === box || event.target === image) box.close(); });
  box.addEventListener("close", () => { links[at]?.focus({ preventScroll: false }); });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(at - 1);
    else if (event.key === "ArrowRight") show(at + 1);
    else return;
    event.preventDefault();
  });

  // --- sliders ---
  const slider = (label, props, after) => {
    const input = make("input", { type: "range", ariaLabel: label, ...props });
    const output = make("output");
    const row = make("div", { className: "slide" }, input, output);
    after.after(row);
    return [input, output];
  };
  for (const frame of document.querySelectorAll(".versus")) {
    frame.classList.add("live");
    const [input, output] = slider("Before and after", { min: 0, max: 100, value: 50 }, frame);
    output.textContent = "before | after";
    input.addEventListener("input", () => frame.style.setProperty("--at", `${input.value}%`));
    frame.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse") return;
      const box = frame.getBoundingClientRect();
      input.value = Math.round((100 * (event.clientX - box.left)) / box.width);
      input.dispatchEvent(new Event("input"));
    });
  }
  for (const frame of document.querySelectorAll(".steps")) {
    const steps = [...frame.children];
    if (steps.length < 2) continue;
    frame.classList.add("live");
    const [input, output] = slider("Step", { min: 0, max: steps.length - 1, step: 1, value: steps.length - 1 }, frame);
    const pick = () => {
      steps.forEach((step, k) => step.classList.toggle("shown", k === Number(input.value)));
      output.textContent = steps[input.value].querySelector(".label").textContent;
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", pick);
    pick();
  }

  // --- copy ---
  for (const code of document.querySelectorAll(".code")) {
    const copy = make("button", { type: "button", className: "copy", textContent: "Copy" });
    copy.addEventListener("click", async () => {
      const text = code.querySelector("code").textContent;
      try {
        await navigator.clipboard.writeText(text);
      } catch { // not allowed on pages from a disk, in some browsers
        const area = make("textarea", { value: text });
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1200);
    });
    code.append(copy);
  }

  // "/" goes to the search, where there is one
  document.addEventListener("keydown", (event) => {
    const field = document.getElementById("search");
    if (event.key !== "/" || !field || typing(event.target)) return;
    event.preventDefault();
    field.focus();
  });
})();
