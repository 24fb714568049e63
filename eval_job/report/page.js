"use strict";
// Without this script everything is shown, in the order of the set.
for (const tools of document.querySelectorAll(".tools")) {
  const list = document.getElementById(tools.dataset.of);
  const items = [...list.children];
  const [search, order, alone] = ["search", "order", "alone"].map(name => tools.querySelector(`[name=${name}]`));
  const count = tools.querySelector("output");
  const show = () => {
    const wanted = search ? search.value.trim().toLowerCase() : "";
    list.classList.toggle("only-alone", Boolean(alone && alone.checked));
    let shown = 0;
    for (const item of items) {
      item.hidden = !item.dataset.words.includes(wanted) || Boolean(alone && alone.checked && item.dataset.alone === "0");
      shown += item.hidden ? 0 : 1;
    }
    if (order) {
      const by = item => order.value === "set" ? Number(item.dataset.index) : Number(item.dataset.found);
      const sign = order.value === "most" ? -1 : 1;
      list.append(...[...items].sort((a, b) => sign * (by(a) - by(b)) || a.dataset.index - b.dataset.index));
    }
    if (count) count.value = `${shown} of ${items.length}`;
  };
  for (const control of [search, order, alone]) control && control.addEventListener("input", show);
  tools.hidden = false;
  show();
}
