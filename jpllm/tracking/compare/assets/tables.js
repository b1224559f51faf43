// Tables of things × runs: few runs stand side by side, many below each other.
const MAX_COLUMNS = 6;

function tableOf(table, runs, kind) {
  const areRuns = table.columns === null;
  const columns = areRuns ? runs.map((run) => run.name) : table.columns;
  const made = areRuns && runs.length > MAX_COLUMNS ? runsAsRows(table, runs) : runsAsColumns(table, columns, areRuns, runs);
  made.className = kind;
  const parts = [el("div", { class: "scroll", tabindex: "0" }, made)];
  if (table.note) parts.push(el("p", { class: "note" }, table.note));
  return parts;
}

function titleOf(row) {
  return [row.title, row.note ? el("small", {}, row.note) : null];
}

function runHead(index, run, scope) {
  return el("th", { class: "run", scope, "data-run": index }, dot(index), " ", run.name);
}

function runsAsColumns(table, columns, areRuns, runs) {
  const head = columns.map((name, index) => (areRuns ? runHead(index, runs[index], "col") : el("th", { scope: "col" }, name)));
  const body = el("tbody");
  let group = "";
  for (const row of table.rows) {
    if (row.group && row.group !== group) body.append(el("tr", { class: "group" }, el("th", { colspan: columns.length + 1 }, row.group)));
    group = row.group;
    const cells = row.cells.map((cell, index) => cellOf(cell, areRuns ? index : null));
    body.append(el("tr", {}, el("th", { scope: "row" }, titleOf(row)), cells));
  }
  return el("table", {}, el("thead", {}, el("tr", {}, el("th"), head)), body);
}

function runsAsRows(table, runs) {
  const body = el("tbody");
  const rows = runs.map((run, index) => {
    const cells = table.rows.map((row) => cellOf(row.cells[index], null));
    return el("tr", { "data-run": index }, runHead(index, run, "row"), cells);
  });
  body.append(...rows.filter((_, index) => table.rows.some((row) => row.cells[index])));
  const heads = table.rows.map((row) => {
    const values = row.cells.map((cell) => (cell && cell.value !== undefined ? cell.value : null));
    if (values.every((value) => value === null)) return el("th", { scope: "col" }, titleOf(row));
    const sort = el("button", { type: "button", title: "sort", on: { click: () => sortBy(head, values, body) } }, titleOf(row));
    const head = el("th", { scope: "col" }, sort);
    return head;
  });
  return el("table", {}, el("thead", {}, groupsOf(table), el("tr", {}, el("th"), heads)), body);
}

function groupsOf(table) {
  const groups = [];
  for (const { group } of table.rows) {
    if (groups.length && groups.at(-1).group === group) groups.at(-1).size++;
    else groups.push({ group, size: 1 });
  }
  if (groups.every(({ group }) => !group)) return null;
  return el("tr", { class: "groups" }, el("th"), groups.map(({ group, size }) => el("th", { colspan: size, scope: "colgroup" }, group)));
}

function sortBy(head, values, body) {
  const isRising = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", isRising ? "ascending" : "descending");
  const valueOf = (row) => values[row.dataset.run];
  const sorted = [...body.children].sort((a, b) => {
    if (valueOf(a) === null || valueOf(b) === null) return (valueOf(a) === null) - (valueOf(b) === null);
    return isRising ? valueOf(a) - valueOf(b) : valueOf(b) - valueOf(a);
  });
  body.append(...sorted);
}

function cellOf(cell, index) {
  if (!cell) return el("td", { class: "empty", "data-run": index }, "–");
  const classes = [cell.tone, cell.is_best ? "best" : null].filter(Boolean).join(" ");
  return el("td", { class: classes || null, title: cell.is_best ? "the best" : null, "data-run": index }, cell.text, barOf(cell));
}

function barOf(cell) {
  if (cell.bar === undefined) return null;
  const share = (value) => `${100 * Math.min(Math.max(value, 0), 1)}%`;
  const mark = cell.mark === undefined ? null : el("b", { style: { left: share(cell.mark) } });
  return el("div", { class: "bar" }, el("i", { style: { width: share(cell.bar) } }), mark);
}
