// Tables are complete without this; it lets a reader sort them by any column.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const valueIn = (row, column) => {
    const value = row.cells[column].dataset.value;
    return value === undefined || column === 0 ? value : Number(value);
  };
  const sortBy = (column) => {
    const head = heads[column];
    const opposite = { ascending: "descending", descending: "ascending" };
    const order = opposite[head.getAttribute("aria-sort")] || head.dataset.first;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (one, other) => {
      const a = valueIn(one, column);
      const b = valueIn(other, column);
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined); // no value: always last
      return sign * (column === 0 ? a.localeCompare(b) : a - b);
    };
    body.append(...[...body.rows].sort(compare));
    for (const one of heads) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(column));
    head.append(button);
  });
}
