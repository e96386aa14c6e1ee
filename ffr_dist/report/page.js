"use strict";

// A missing number (data-value="") stays last in either direction.
const key = (cell) => ("value" in cell.dataset ? Number(cell.dataset.value || NaN) : cell.textContent.trim());

const compare = (a, b, sign) => {
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
};

const sortBy = (table, head) => {
  const now = head.getAttribute("aria-sort");
  // Best numbers first, words from A.
  const down = now === "none" ? head.classList.contains("n") : now === "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(key(a.cells[head.cellIndex]), key(b.cells[head.cellIndex]), down ? -1 : 1));
  table.tBodies[0].append(...rows);
  // A screen reader tells a change of aria-sort only when it comes by again.
  document.querySelector("[role=status]").textContent =
    `Sorted by ${head.textContent}, ${down ? "descending" : "ascending"}`;
};

for (const table of document.querySelectorAll("table[data-sortable]")) {
  for (const head of table.tHead.rows[0].cells) {
    head.querySelector("button").addEventListener("click", () => sortBy(table, head));
  }
}

// Paper cannot be unfolded.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of folded) part.open = false;
});
