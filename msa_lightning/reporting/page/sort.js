"use strict";
// A click on a head sorts by that column, a second one the other way round; what has no value
// stays last.
function valueOf(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? parseFloat(cell.dataset.value) : cell.textContent.trim();
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, {numeric: true});
}
function isNone(value) {
  return value === "" || Number.isNaN(value);
}
function sortBy(head) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const descending = head.getAttribute("aria-sort") === "ascending";
  const rows = Array.from(body.rows, row => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => {
    if (isNone(a) || isNone(b)) return isNone(a) - isNone(b);
    return descending ? compare(b, a) : compare(a, b);
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  body.append(...rows.map(([, row]) => row));
}
for (const head of document.querySelectorAll("th")) {
  head.querySelector("button").addEventListener("click", () => sortBy(head));
}
for (const search of document.querySelectorAll("input[type=search]")) {
  const rows = document.getElementById(search.dataset.table).tBodies[0].rows;
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase();
    for (const row of rows) {
      row.classList.toggle("hidden", !row.textContent.toLowerCase().includes(wanted));
    }
  });
}
