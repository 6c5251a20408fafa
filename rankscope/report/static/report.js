// Draws the report from the data in the page. Nothing is loaded, and no text of the data becomes HTML: only textContent is set.
"use strict";
(async () => {
  const began = performance.now();
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  // The data are JSON, compressed by zlib: the page stays small enough to send.
  const packed = new Blob([bytes(document.getElementById("data").textContent)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = await new Response(packed).json();
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const colors = new Map();  // of the theme; asking the page for each stroke takes longer than drawing it
  const css = (name) => colors.get(name) ?? colors.set(name, getComputedStyle(root).getPropertyValue(name).trim()).get(name);
  const make = (tag, text, props) => Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text }, props);

  // ---- Numbers as words: three digits, a true minus, a dash for none.
  const isNumber = (v) => v !== null && v !== undefined && Number.isFinite(v);
  const num = (v) => {
    if (!isNumber(v)) return "–";
    const size = Math.abs(v);
    if (size > 0 && size < 0.001) return v.toExponential(2).replace(/\.?0+e/, "e").replaceAll("-", "−");
    return (size >= 1000 ? String(Math.round(v)) : String(+v.toPrecision(3))).replace("-", "−");
  };
  const span = (low, high) => (isNumber(low) && isNumber(high) ? ` [${num(low)}, ${num(high)}]` : "");
  const percent = (v) => (isNumber(v) ? `${v > 0 ? "+" : ""}${Math.abs(v) < 10 ? v.toFixed(1) : v.toFixed(0)} %`.replace("-", "−") : "");

  // ---- The records: of each run held against its reference, by measure and site.
  const sum = (a, b) => (isNumber(a) && isNumber(b) ? a + b : null);
  function sides(contrast) {
    const [a, b, base] = contrast.names;
    return base === undefined ? [{ run: b, of: a, key: "pair" }] : [{ run: a, of: base, key: "a" }, { run: b, of: base, key: "b" }];
  }
  function readings() {
    const found = [];
    for (const contrast of data.contrasts) {
      for (const side of sides(contrast)) {
        for (const { at, columns } of contrast.records) {
          const column = (name, i) => (columns[name] === undefined ? null : "all" in columns[name] ? columns[name].all : columns[name].each[i]);
          const every = (name) => at.every((_, i) => column(name, i) === null);
          const relation = side.key === "pair" ? every("a.value") : every("base");
          at.forEach((_, i) => {
            const change = side.key === "pair" ? "estimate" : side.key;
            const [value, low, high] = ["value", "low", "high"].map((end) => column(`${change}.${end}`, i));
            const band = side.key === "pair" ? "band" : `band_${side.key}`;
            const before = relation ? null : side.key === "pair" ? column("a.value", i) : column("base", i);
            const one = {
              run: side.run, of: side.of, site: column("site", i), measure: column("measure", i), unit: column("unit", i), relation, before,
              change: value, low, high, noise: column("noise", i), itself: column("itself", i),
              bandLow: column(`${band}.low`, i), bandHigh: column(`${band}.high`, i), p: side.key === "pair" ? column("p", i) : null,
              n: column("shape.n", i), notes: column("notes", i).map((k) => contrast.texts[k]),
            };
            one.value = relation ? value : sum(before, value);
            one.lower = relation ? low : sum(before, low);
            one.upper = relation ? high : sum(before, high);
            one.percent = !relation && isNumber(value) && before ? (100 * value) / before : null;
            found.push(one);
          });
        }
      }
    }
    return found;
  }
  const all = readings();
  const unique = (values) => [...new Set(values)];
  const sites = unique(all.map((r) => r.site));
  const measures = unique(all.map((r) => r.measure)).filter((m) => all.some((r) => r.measure === m && isNumber(r.value)));
  const runs = unique(all.map((r) => r.run));
  const reference = all[0].of;
  const table = new Map(all.map((r) => [`${r.run}\n${r.measure}\n${r.site}`, r]));
  const at = (run, measure, site) => table.get(`${run}\n${measure}\n${site}`);
  const color = (run) => (run === reference ? css("--ink") : css(`--run${runs.indexOf(run) % 8}`));
  const shares = ["overlap", "recoverability"].filter((m) => measures.includes(m));

  // ---- What is shown. It begins where the verdict quotes a change, or else where a rank changes most.
  const rank = data.rank ?? measures[0];
  const moved = (site) => Math.max(...runs.map((run) => Math.abs(at(run, rank, site)?.percent ?? 0)));
  const state = {
    measure: rank, run: runs[0], hidden: new Set(),
    site: data.site ?? sites.reduce((best, site) => (moved(site) > moved(best) ? site : best), sites[sites.length - 1]),
  };

  // ---- Where the sites lie: one apart, with an empty place wherever no curve may join them.
  const parts = sites.map((site) => ({ stack: site.slice(0, site.lastIndexOf(".")), point: site.slice(site.lastIndexOf(".") + 1) }));
  const named = (i) => (parts[i].point === "output" ? parts[i].stack : parts[i].point);
  const opens = (i) => parts[i].point !== "output" && parts[0].stack !== parts[parts.length - 1].stack && parts[i].stack !== parts[i - 1]?.stack;
  const label = (i) => (opens(i) ? sites[i] : named(i));  // of several stacks each is named where it begins
  const below = sites.some((_, i) => label(i).length > 6) ? 106 : 56;  // room for the names below an axis
  const xs = [], siteAt = [];
  sites.forEach((_, i) => {
    const cut = i > 0 && (parts[i].stack !== parts[i - 1].stack || parts[i].point === "final");
    const last = xs.length ? xs[xs.length - 1] : -1;
    if (cut) { xs.push(last + 0.75); siteAt.push(null); }
    xs.push(cut ? last + 1.5 : last + 1);
    siteAt.push(i);
  });
  const xOf = sites.map((_, i) => xs[siteAt.indexOf(i)]);
  const spread = (of) => siteAt.map((i) => (i === null ? null : of(sites[i]) ?? null));

  // ---- Curves, by uPlot.
  const plots = [];
  const ink = (name) => () => css(name);
  function axis(more) {
    return { stroke: ink("--soft"), grid: { stroke: ink("--grid"), width: 1 }, ticks: { stroke: ink("--line"), width: 1, size: 4 }, font: "12px system-ui, sans-serif", ...more };
  }
  const siteAxis = () => axis({
    size: below, rotate: -90,
    splits: (u) => {
      const [low, high] = [u.scales.x.min, u.scales.x.max];
      const inside = sites.map((_, i) => i).filter((i) => xOf[i] >= low && xOf[i] <= high);
      const step = Math.ceil(inside.length / Math.max(1, Math.floor(u.bbox.width / devicePixelRatio / 18)));
      return inside.filter((i) => i % step === 0 || !/^\d+$/.test(label(i))).map((i) => xOf[i]);
    },
    values: (u, places) => places.map((x) => { const text = label(xOf.indexOf(x)); return text.length > 15 ? `…${text.slice(-14)}` : text; }),
  });
  function plot(id, options, values, series, bands) {
    const host = $(id).querySelector(".plot");
    host.replaceChildren();
    const old = plots.findIndex((p) => p.id === id);
    if (old >= 0) plots.splice(old, 1)[0].u.destroy();
    const u = new uPlot({
      width: Math.max(260, host.clientWidth), height: id in tells ? 214 + below : 270, legend: { show: false }, padding: [8, 10, 0, 0],
      series: [{}, ...series], bands, ...options,
    }, values, host);
    plots.push({ id, u, host });
    return u;
  }
  // A run's band, and its curve over it; the base's own values dashed; what noise scores dotted.
  const points = { show: true, size: 5, fill: ink("--card") };
  function curve(run, how) {
    return { label: run, stroke: () => color(run), width: 2, points, spanGaps: false, ...how };
  }
  function profile(id, entries, options) {
    const values = [xs], series = [], bands = [];
    for (const { get, run, hollow } of entries) {
      if (state.hidden.has(run)) continue;
      const tint = () => `color-mix(in srgb, ${color(run)} 18%, transparent)`;
      const edge = { stroke: "transparent", width: 0, points: { show: false } };
      values.push(spread((s) => get(s)?.upper), spread((s) => get(s)?.lower), spread((s) => get(s)?.value));
      series.push({ ...edge, label: "" }, { ...edge, label: "" }, curve(run, hollow ? { dash: [5, 3], width: 1.3 } : {}));
      bands.push({ series: [series.length - 2, series.length - 1], fill: tint });
    }
    for (const { of, stroke, dash } of options.lines ?? []) {
      values.push(spread(of));
      series.push({ stroke: ink(stroke), width: 1.6, dash, points: { show: false }, spanGaps: false });
    }
    const u = plot(id, {
      cursor: { sync: { key: "sites" }, y: false, points: { show: false }, drag: { x: true, y: false } },
      scales: { x: { time: false, range: (u, low, high) => (low === high ? [low - 0.5, high + 0.5] : [low - 0.4, high + 0.4]) }, y: { range: options.range ?? ((u, low, high) => room(low, high)) } },
      axes: [siteAxis(), axis({ size: 52, values: options.ticks ?? ((u, ticks) => ticks.map(num)) })],
      hooks: { setCursor: [(u) => { const i = siteAt[u.cursor.idx]; if (i !== null && i !== undefined) tell(id, sites[i]); }], draw: [markSite] },
    }, values, series, bands);
    u.over.addEventListener("click", () => { const i = siteAt[u.cursor.idx]; if (i !== null && i !== undefined) choose({ site: sites[i] }); });
    return u;
  }
  const room = (low, high) => {
    if (!isNumber(low) || !isNumber(high)) return [0, 1];
    const gap = high - low || Math.abs(high) || 1;
    return [low - 0.06 * gap, high + 0.06 * gap];
  };
  function markSite(u) {
    const x = u.valToPos(xOf[sites.indexOf(state.site)], "x", true);
    u.ctx.save();
    u.ctx.fillStyle = css("--accent");
    u.ctx.globalAlpha = 0.25;
    u.ctx.fillRect(x - devicePixelRatio, u.bbox.top, 2 * devicePixelRatio, u.bbox.height);
    u.ctx.restore();
  }
  const caption = (id, title, small) => $(id).querySelector("figcaption").replaceChildren(make("span", title), make("small", small ? ` ${small}` : ""));
  function say(id, head, rest) { $(id).querySelector("output").replaceChildren(make("b", head), make("span", ` ${rest}`)); }

  // ---- What hovering shows.
  const shown = () => runs.filter((run) => !state.hidden.has(run));
  function described(run, measure, site) {
    const r = at(run, measure, site);
    if (!r || !isNumber(r.value)) return `${run} –${r?.notes.length ? ` (${r.notes[0]})` : ""}`;
    return `${run} ${num(r.value)}${span(r.lower, r.upper)}${r.percent === null ? "" : ` (${percent(r.percent)})`}`;
  }
  const tells = {
    profile: (site) => {
      const r = at(runs[0], state.measure, site);
      const beside = [r && !r.relation ? `${reference} ${num(r.before)}` : `${reference} itself ${num(r?.itself)}`, `noise ${num(r?.noise)}`];
      return [...shown().map((run) => described(run, state.measure, site)), ...beside].join(" · ");
    },
    shares: (site) => shares.map((m) => `${m}: ${shown().map((run) => described(run, m, site)).join(", ")}`).join(" · "),
  };
  function tell(id, site) { if (tells[id] && !$(id).hidden) say(id, site, tells[id](site)); }

  // ---- The figures.
  function drawProfile() {
    const r = all.find((one) => one.measure === state.measure);
    caption("profile", state.measure, [r.unit && `in ${r.unit}`, r.relation ? `against ${reference}` : `bands: interval of the change from ${reference}`].filter(Boolean).join("; "));
    const entries = runs.map((run) => ({ run, get: (site) => at(run, state.measure, site) }));
    const lines = r.relation ? [] : [{ of: (s) => at(runs[0], state.measure, s)?.before, stroke: "--ink", dash: [6, 3] }];
    const noise = sites.map((s) => at(runs[0], state.measure, s)?.noise).filter(isNumber);
    const values = runs.flatMap((run) => sites.map((s) => at(run, state.measure, s)?.value)).concat(sites.map((s) => at(runs[0], state.measure, s)?.before)).filter(isNumber);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    // Noise that lies far off would press the runs flat; hovering shows it.
    if (noise.length && Math.max(...noise, high) - Math.min(...noise, low) <= 5 * (high - low)) lines.push({ of: (s) => at(runs[0], state.measure, s)?.noise, stroke: "--soft", dash: [2, 3] });
    profile("profile", entries, { lines });
    tell("profile", state.site);
  }
  function drawShares() {
    $("shares").hidden = !shares.length;
    if (!shares.length) return;
    caption("shares", shares.length > 1 ? `${shares[0]} (solid) and ${shares[1]} (dashed)` : shares[0], `against ${reference}, in per cent`);
    const entries = shares.flatMap((m, second) => runs.map((run) => ({ run, hollow: second > 0, get: (site) => at(run, m, site) })));
    const least = Math.min(0, ...shares.flatMap((m) => runs.flatMap((run) => sites.map((s) => at(run, m, s)?.value))).filter(isNumber));
    profile("shares", entries, { range: () => [least - 0.03, 1.03], ticks: (u, ticks) => ticks.map((t) => `${Math.round(100 * t)} %`.replace("-", "−")) });
    tell("shares", state.site);
  }
  const isRound = (t) => [1, 2, 5].includes(Math.round(100 * t / 10 ** Math.floor(Math.log10(t) + 1e-9)) / 100);
  function drawSpectra() {
    const there = [reference, ...runs].filter((run) => data.spectra[run]?.[state.site]?.values.length && !state.hidden.has(run));
    $("spectra").hidden = !Object.values(data.spectra).some((of) => Object.values(of).some((one) => one.values.length));
    if ($("spectra").hidden) return;
    if (!there.length) { caption("spectra", `Spectra at ${state.site}`, "none above the rounding floor"); $("spectra").querySelector(".plot").replaceChildren(); return; }
    const one = data.spectra[there[0]][state.site];
    caption("spectra", `Spectra at ${state.site}`, `σ / σ₁ of centred rows; n = ${one.n}, d = ${one.d}`);
    const places = unique(there.flatMap((run) => data.drawn[data.spectra[run][state.site].r].slice(0, data.spectra[run][state.site].values.length))).sort((a, b) => a - b);
    const values = [places.map((i) => i + 1)], series = [];
    for (const run of there) {
      const { r, values: mine } = data.spectra[run][state.site];
      const of = new Map(mine.map((v, k) => [data.drawn[r][k], v]));
      values.push(places.map((i) => of.get(i) ?? null));
      series.push(curve(run, { width: run === reference ? 1.6 : 2, dash: run === reference ? [6, 3] : undefined, points: { show: mine.length === 1, size: 5 }, spanGaps: true }));
    }
    // All but the last fiftieth: the direction that a norm takes away would press the rest flat.
    const least = Math.min(...there.map((run) => { const { r, values: mine } = data.spectra[run][state.site]; const most = 0.98 * (r - 1); return mine.filter((_, k) => k === 0 || data.drawn[r][k] <= most).at(-1); }));
    plot("spectra", {
      cursor: { drag: { x: true, y: true }, points: { show: false } },
      scales: { x: { time: false, distr: 3, range: (u, low, high) => [low, low === high ? high + 1 : high] }, y: { distr: 3, range: () => [least * 0.6, 1.5] } },
      axes: [axis({ size: 40, label: "direction", labelSize: 18, labelFont: "12px system-ui, sans-serif" }), axis({ size: 56, values: (u, ticks) => ticks.map((t) => (t !== null && isRound(t) ? num(t) : null)) })],
      hooks: { setCursor: [(u) => {
        const i = u.cursor.idx;
        if (i !== null && i !== undefined) say("spectra", `direction ${values[0][i]}`, there.map((run, k) => `${run} ${num(values[k + 1][i])}`).join(" · "));
      }] },
    }, values, series, []);
    say("spectra", state.site, there.map((run) => `${run}: ${data.spectra[run][state.site].r} directions`).join(" · "));
  }

  // ---- Maps, on canvases of our own.
  function canvas(id, height) {
    const host = $(id).querySelector(".plot");
    const shape = { w: Math.max(260, host.clientWidth), h: height };
    let sheet = host.querySelector("canvas");
    if (!sheet) { host.replaceChildren(); sheet = host.appendChild(make("canvas")); sheet.tabIndex = 0; sheet.setAttribute("role", "img"); }
    sheet.width = shape.w * devicePixelRatio; sheet.height = shape.h * devicePixelRatio;
    sheet.style.width = `${shape.w}px`; sheet.style.height = `${shape.h}px`;
    const g = sheet.getContext("2d");
    g.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    g.font = "11px system-ui, sans-serif";
    return { sheet, g, ...shape };
  }
  const VIVID = ["#00204d", "#31446b", "#666970", "#958f78", "#cbba69", "#ffea46"];  // cividis, which the colour-blind read as others do
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  function mixed(stops, t) {
    const place = Math.min(Math.max(t, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(place), stops.length - 2);
    const [a, b] = [rgb(stops[i]), rgb(stops[i + 1])];
    return `rgb(${a.map((v, k) => Math.round(v + (b[k] - v) * (place - i))).join(",")})`;
  }
  function heat(id, { rows, columns, cell, tellCell, pick, height, chosenColumn, chosenRow }) {
    const { sheet, g, w, h } = canvas(id, height);
    const left = Math.min(170, 14 + Math.max(...rows.map((t) => g.measureText(t).width))), bottom = below, top = 4;
    const [cw, ch] = [(w - left - 6) / columns.length, (h - bottom - top) / rows.length];
    rows.forEach((_, r) => columns.forEach((_, c) => {
      const { fill, mark } = cell(r, c);
      g.fillStyle = fill ?? css("--grid");
      g.fillRect(left + c * cw, top + r * ch, Math.ceil(cw) - (cw > 6 ? 1 : 0), Math.ceil(ch) - (ch > 6 ? 1 : 0));
      if (mark) {
        g.beginPath(); g.arc(left + (c + 0.5) * cw, top + (r + 0.5) * ch, Math.max(1.2, Math.min(cw, ch, 14) / 6), 0, 7);
        g.strokeStyle = g.fillStyle = css("--ink"); mark === "dot" ? g.fill() : g.stroke();
      }
    }));
    g.fillStyle = css("--soft"); g.textBaseline = "middle"; g.textAlign = "right";
    const every = (count, size, least) => Math.max(1, Math.ceil((least * count) / (size * count)));
    rows.forEach((t, r) => { if (r % every(rows.length, ch, 12) === 0) g.fillText(t, left - 6, top + (r + 0.5) * ch, left - 10); });
    columns.forEach((t, c) => {
      if (c % every(columns.length, cw, 13)) return;
      g.save(); g.translate(left + (c + 0.5) * cw, h - bottom + 6); g.rotate(-Math.PI / 2); g.fillText(t, 0, 0, bottom - 8); g.restore();
    });
    g.strokeStyle = css("--accent"); g.lineWidth = 2;
    if (chosenColumn >= 0) g.strokeRect(left + chosenColumn * cw - 1, top - 1, cw + 1, rows.length * ch + 1);
    if (chosenRow >= 0) g.strokeRect(left - 1, top + chosenRow * ch - 1, columns.length * cw + 1, ch + 1);
    const where = (event) => {
      const [c, r] = [Math.floor((event.offsetX - left) / cw), Math.floor((event.offsetY - top) / ch)];
      return r >= 0 && r < rows.length && c >= 0 && c < columns.length ? [r, c] : null;
    };
    sheet.onmousemove = (event) => { const cellAt = where(event); if (cellAt) tellCell(...cellAt); };
    sheet.onclick = (event) => { const cellAt = where(event); if (cellAt && pick) pick(...cellAt); };
  }
  const columnNames = sites.map((_, i) => label(i));

  // The change of a rank in per cent; of a relation what it lacks or has beyond the reference against itself, on the side of noise:
  // nearer than the reference to itself is no change.
  const alike = (r) => r.itself >= r.noise;
  function moving(r) {
    if (!r || !isNumber(r.value)) return null;
    if (!r.relation) return r.percent;
    if (!isNumber(r.itself) || !isNumber(r.noise)) return null;
    const beyond = 100 * (r.value - r.itself);
    return alike(r) ? Math.min(0, beyond) : Math.max(0, beyond);
  }
  function marked(r) {
    if (!r || !isNumber(r.low) || !isNumber(r.high)) return "";
    const outside = (low, high) => {
      if (!isNumber(low) || !isNumber(high)) return false;
      if (!r.relation) return low > 0 || high < 0;
      return isNumber(r.itself) && isNumber(r.noise) && (alike(r) ? high < r.itself : low > r.itself);
    };
    return outside(r.bandLow, r.bandHigh) ? "dot" : outside(r.low, r.high) ? "ring" : "";
  }
  function drawChanges() {
    caption("changes", `What changed in ${state.run}`, `against ${reference}, from −100 (blue) to +100 (orange); ranks in per cent, relations in points; ring: beyond row noise, dot: at all sites together`);
    const middle = css("--card"), [low, high] = [css("--low"), css("--high")];
    const full = (hex) => (hex.length === 4 ? `#${[...hex.slice(1)].map((d) => d + d).join("")}` : hex);
    heat("changes", {
      rows: measures, columns: columnNames, height: below + 14 + 19 * measures.length, chosenColumn: sites.indexOf(state.site), chosenRow: measures.indexOf(state.measure),
      cell: (r, c) => {
        const one = at(state.run, measures[r], sites[c]), v = moving(one);
        return { fill: v === null ? null : mixed([low, full(middle), high], 0.5 + v / 200), mark: marked(one) };
      },
      tellCell: (r, c) => {
        const one = at(state.run, measures[r], sites[c]);
        say("changes", `${measures[r]} at ${sites[c]}:`, `${described(state.run, measures[r], sites[c])} · ${one?.relation ? `${reference} itself ${num(one.itself)}` : `${reference} ${num(one?.before)}`} · noise ${num(one?.noise)}${one?.notes.length ? ` · ${one.notes.join(" · ")}` : ""}`);
      },
      pick: (r, c) => choose({ measure: measures[r], site: sites[c] }),
    });
    say("changes", state.site, "selected; point at a cell for its numbers");
    $("changes").querySelector("canvas").setAttribute("aria-label", `Change of ${measures.length} measures at ${sites.length} sites; the tables below have the numbers`);
  }
  function drawSimilarity() {
    const found = data.contrasts.find((one) => one.similarity && one.names[1] === state.run) ?? data.contrasts.find((one) => one.similarity);
    $("similarity").hidden = !found;
    if (!found) return;
    const rows = found.similarity_sites, from = found.names[2] ?? found.names[0];
    caption("similarity", `CKA, debiased: ${from} × ${found.names[1]}`, "0 (dark) to 1 (bright)");
    const short = rows.map((site) => (sites.includes(site) ? label(sites.indexOf(site)) : site));
    heat("similarity", {
      rows: short, columns: short, height: below + 280, chosenColumn: rows.indexOf(state.site), chosenRow: -1,
      cell: (r, c) => ({ fill: isNumber(found.similarity[r][c]) ? mixed(VIVID, found.similarity[r][c]) : null }),
      tellCell: (r, c) => say("similarity", num(found.similarity[r][c]), `between ${rows[r]} of ${from} and ${rows[c]} of ${found.names[1]}`),
      pick: (r, c) => choose({ site: rows[c] }),
    });
    say("similarity", "", "Point at a cell for its numbers.");
    $("similarity").querySelector("canvas").setAttribute("aria-label", `Similarity of every site of ${from} with every site of ${found.names[1]}`);
  }
  function drawPlane() {
    const there = data.planes[state.site] ?? [];
    $("plane").hidden = !Object.keys(data.planes).length;
    if ($("plane").hidden) return;
    const base = there[0], mine = there.find((p) => p.run === state.run);
    caption("plane", `Rows at ${state.site}: ${reference} and ${state.run}`, "along the base's two leading components");
    const { sheet, g, w, h } = canvas("plane", 270);
    if (!base || !mine) { say("plane", state.site, "has no components for both"); return; }
    const both = [base, mine].map(({ xy, low, high }) => Array.from(bytes(xy), (v, i) => low[i % 2] + (v / 255) * (high[i % 2] - low[i % 2])));
    const ends = [0, 1].map((k) => { const v = both.flat().filter((_, i) => i % 2 === k); return room(Math.min(...v), Math.max(...v)); });
    const scale = Math.min((w - 20) / (ends[0][1] - ends[0][0]), (h - 20) / (ends[1][1] - ends[1][0]));  // the same along both: a turn stays a turn
    const place = (values, i) => [w / 2 + scale * (values[2 * i] - (ends[0][0] + ends[0][1]) / 2), h / 2 - scale * (values[2 * i + 1] - (ends[1][0] + ends[1][1]) / 2)];
    const paint = (near) => {
      g.clearRect(0, 0, w, h);
      both.forEach((values, k) => {
        g.strokeStyle = g.fillStyle = color(k ? state.run : reference);
        g.globalAlpha = 0.75;
        for (let i = 0; i < values.length / 2; i++) {
          g.beginPath(); g.arc(...place(values, i), k ? 3 : 2.6, 0, 7); k ? g.fill() : g.stroke();
        }
      });
      g.globalAlpha = 1;
      if (near === undefined) return;
      g.strokeStyle = css("--accent"); g.lineWidth = 2; g.beginPath(); g.moveTo(...place(both[0], near)); g.lineTo(...place(both[1], near)); g.stroke(); g.lineWidth = 1;
    };
    const share = (p) => p.share.map((s) => `${Math.round(100 * s)} %`).join(" and ");
    const idle = () => say("plane", `${reference} (rings) has ${share(base)}`, `of its variance along them, ${state.run} (dots) ${share(mine)}; ${both[0].length / 2} rows`);
    paint(); idle();
    sheet.setAttribute("aria-label", `Rows of ${reference} and ${state.run} at ${state.site}`);
    sheet.onmousemove = (event) => {
      let best, least = 400;
      both.forEach((values) => { for (let i = 0; i < values.length / 2; i++) { const [x, y] = place(values, i), d = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2; if (d < least) [best, least] = [i, d]; } });
      paint(best);
      best === undefined ? idle() : say("plane", "one row", `moves from (${num(both[0][2 * best])}, ${num(both[0][2 * best + 1])}) to (${num(both[1][2 * best])}, ${num(both[1][2 * best + 1])})`);
    };
    sheet.onmouseleave = () => { paint(); idle(); };
    sheet.onclick = null;
  }
  function drawWeights() {
    const report = data.weights.find((one) => one.name === state.run);
    $("weights").hidden = !data.weights.length;
    if (!data.weights.length) return;
    const places = (report?.records ?? []).map((r) => { const m = /(?:^|\.)(\d+)(?=\.|$)/.exec(r[0]); return { r, layer: m ? m[1] : "–", name: m ? r[0].slice(m.index + m[0].length).replace(/^\./, "") || r[0] : r[0] }; });
    const known = places.filter(({ r }) => isNumber(r[5]));
    caption("weights", `What changed in the weights of ${state.run}`, known.length ? "|ΔW| / |W|, a column a layer" : "no change of a matrix is known");
    const layers = unique(known.map((p) => p.layer)), names = unique(known.map((p) => p.name));
    const most = Math.max(...known.map(({ r }) => r[5]));
    const one = new Map(known.map((p) => [`${p.layer}\n${p.name}`, p.r]));
    if (!known.length) { $("weights").querySelector(".plot").replaceChildren(); return; }
    heat("weights", {
      rows: names, columns: layers, height: 330, chosenColumn: -1, chosenRow: -1,
      cell: (r, c) => { const found = one.get(`${layers[c]}\n${names[r]}`); return { fill: found && mixed(VIVID, most ? found[5] / most : 0) }; },
      tellCell: (r, c) => { const f = one.get(`${layers[c]}\n${names[r]}`); if (f) say("weights", f[0], `${f[1]}, ${f[2]} × ${f[3]}: changed by ${percent(100 * f[5]).replace("+", "")} of its norm; effective rank of the change ${num(f[4])}`); },
    });
    say("weights", `at most ${percent(100 * most).replace("+", "")}`, "of a matrix's norm");
  }

  // ---- Tables that sort and copy.
  const key = (text) => { const v = parseFloat(text.replace("−", "-").replace("+", "")); return Number.isNaN(v) ? null : v; };
  function sortable(of) {
    of.querySelectorAll("thead th").forEach((head, index) => {
      const button = make("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.onclick = () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        of.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...of.tBodies[0].rows].map((row, place) => ({ row, place, text: row.cells[index].textContent, v: key(row.cells[index].textContent) }));
        const numbers = rows.some((r) => r.v !== null) && index > 0 && !rows[0].row.cells[index].className;
        // What has no value stays below, whichever way the rest is sorted.
        rows.sort((a, b) => (numbers && (a.v === null || b.v === null) ? (a.v === null) - (b.v === null) : (down ? -1 : 1) * (numbers ? a.v - b.v : a.text.localeCompare(b.text, undefined, { numeric: true }))) || a.place - b.place);
        of.tBodies[0].append(...rows.map((r) => r.row));
      };
    });
    const copy = make("button", "Copy", { type: "button", className: "copy" });
    copy.onclick = async () => {
      const text = [...of.rows].map((row) => [...row.cells].map((c) => c.textContent).join("\t")).join("\n");
      try { await navigator.clipboard.writeText(text); } catch {
        const area = document.body.appendChild(make("textarea", text)); area.select(); document.execCommand("copy"); area.remove();
      }
      copy.textContent = "Copied"; setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    };
    of.parentElement.before(copy);
  }
  function everyRecord() {
    const host = $("records").querySelector(".scroll");
    if (host.firstChild) return;
    const of = make("table", undefined, { className: "sortable" });
    const heads = ["site", "measure", "run", reference, "value", "low", "high", "change", "change %", "low of change", "high of change", "noise", `${reference} itself`, "p", "rows", "notes"];
    const head = of.createTHead().insertRow();
    heads.forEach((text) => head.append(make("th", text, { scope: "col" })));
    const body = of.createTBody();
    for (const r of all) {
      const row = body.insertRow();
      const cells = [r.before, r.value, r.lower, r.upper, r.relation ? null : r.change, r.percent, r.relation ? null : r.low, r.relation ? null : r.high, r.noise, r.itself, r.p, r.n];
      row.append(make("th", r.site, { scope: "row" }), make("td", r.measure), make("td", r.run), ...cells.map((v, i) => make("td", i === 5 ? percent(v) || "–" : i === 11 ? String(v) : num(v))), make("td", r.notes.join(" · "), { className: "words" }));
    }
    host.append(of);
    sortable(of);
  }

  // ---- Choosing.
  function drawSite() { drawSpectra(); drawPlane(); drawChanges(); drawSimilarity(); }
  function drawAll() { drawProfile(); drawShares(); drawSite(); drawWeights(); }
  function choose(change) {
    Object.assign(state, change);
    for (const id of ["measure", "site", "run"]) $(id).value = state[id];
    markRow();
    if ("measure" in change) drawProfile();
    if ("run" in change) drawWeights();
    if ("site" in change) { plots.filter((p) => tells[p.id]).forEach((p) => p.u.redraw(false)); Object.keys(tells).forEach((id) => tell(id, state.site)); }
    drawSite();
  }
  const markRow = () => { for (const row of $("sites").tBodies[0].rows) row.classList.toggle("chosen", row.cells[0].textContent === state.site); };
  function themed(name) {
    root.dataset.theme = name;
    colors.clear();
    $("theme").textContent = name === "dark" ? "Light" : "Dark";
  }
  function fill(id, values) { $(id).replaceChildren(...values.map((v) => make("option", v, { value: v }))); $(id).value = state[id]; $(id).onchange = () => choose({ [id]: $(id).value }); }
  async function start() {
    for (const id of ["controls", "figures", "help", "everything"]) $(id).hidden = false;
    themed(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    fill("measure", measures); fill("site", sites); fill("run", runs);
    $("run").parentElement.hidden = runs.length < 2;
    $("theme").onclick = () => { themed(root.dataset.theme === "dark" ? "light" : "dark"); paintLegend(); drawAll(); };
    const paintLegend = () => $("legend").querySelectorAll("i").forEach((line) => { line.style.borderTopColor = color(line.dataset.run); });
    for (const run of [reference, ...runs]) {
      const line = make("i"); line.dataset.run = run;
      if (run === reference) line.style.borderTopStyle = "dashed";
      const box = make("input", undefined, { type: "checkbox", checked: true, disabled: run === reference });
      box.onchange = () => { box.checked ? state.hidden.delete(run) : state.hidden.add(run); drawProfile(); drawShares(); drawSpectra(); };
      const entry = make("label"); entry.append(box, line, make("span", run));
      $("legend").append(entry);
    }
    paintLegend();
    for (const id of ["profile", "shares"]) {
      const host = $(id).querySelector(".plot");
      host.tabIndex = 0; host.setAttribute("role", "img"); host.setAttribute("aria-label", "A curve along the sites; the arrow keys choose a site, and the line below gives its values");
    }
    document.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || event.target.closest("select, input, textarea, summary")) return;
      event.preventDefault();
      choose({ site: sites[Math.min(Math.max(sites.indexOf(state.site) + step, 0), sites.length - 1)] });
    });
    $("records").ontoggle = everyRecord;
    sortable($("sites"));
    drawProfile();
    drawShares();
    markRow();
    await new Promise((done) => setTimeout(done));  // what the first screen shows is painted before the rest is drawn
    drawSite();
    drawWeights();
    let wide = innerWidth, before;
    addEventListener("resize", () => { if (innerWidth !== wide) { wide = innerWidth; drawAll(); } });
    addEventListener("beforeprint", () => { before = root.dataset.theme; themed("light"); paintLegend(); drawAll(); });
    addEventListener("afterprint", () => { themed(before); paintLegend(); drawAll(); });
    root.dataset.drawn = Math.round(performance.now() - began);  // milliseconds, which the tests read
  }
  await start();
})().catch((error) => {
  const told = document.getElementById("help");
  told.hidden = false;
  told.textContent = `The figures could not be drawn (${error}); the tables below have the numbers.`;
  console.error(error);
});
