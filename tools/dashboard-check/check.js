// Type-checks every dashboard against the schema that Grafana publishes: unknown and misspelt fields, wrong values.
// Run through `npm ci && npm run check` in this folder. Queries are checked elsewhere, by evaluating them.
const fs = require("fs");
const path = require("path");
const ts = require("typescript");

const PANELS = {
  bargauge: ["bargauge", "BarGauge", false],
  gauge: ["gauge", "Gauge", false],
  stat: ["stat", "Stat", false],
  "state-timeline": ["statetimeline", "StateTimeline", true],
  table: ["table", "Table", true],
  timeseries: ["timeseries", "TimeSeries", true],
};

const folder = path.join(__dirname, "..", "..", "grafana", "dashboards");
const lines = [
  'import type { Dashboard, Panel, RowPanel } from "@grafana/schema";',
  // JSON holds the values of enums, where TypeScript wants their members.
  "type Plain<T> = 0 extends 1 & T ? any : T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
];
for (const [type, [directory, name]] of Object.entries(PANELS)) {
  const alias = type.replace("-", "_");
  lines.push(`import type * as ${alias} from "@grafana/schema/dist/esm/raw/composable/${directory}/panelcfg/x/${name}PanelCfg_types.gen";`);
}

// Which dashboard and panel each line of the generated file stands for.
const origins = [];
function declare(origin, type, value) {
  if (value === undefined) return;
  lines.push(`const v${lines.length}: Plain<${type}> = ${JSON.stringify(value)};`);
  origins[lines.length] = origin;
}

let count = 0;
for (const file of fs.readdirSync(folder).filter((name) => name.endsWith(".json")).sort()) {
  const { panels, ...dashboard } = JSON.parse(fs.readFileSync(path.join(folder, file), "utf8"));
  declare(file, "Dashboard", dashboard);
  for (const panel of panels) {
    const origin = `${file}: ${panel.title}`;
    count += 1;
    if (panel.type === "row") {
      declare(origin, "RowPanel", panel);
      continue;
    }
    if (!PANELS[panel.type]) throw new Error(`${origin}: panel type ${panel.type} is not known to this check`);
    const alias = panel.type.replace("-", "_");
    declare(origin, "Panel", panel);
    declare(`${origin} (options)`, `Partial<${alias}.Options>`, panel.options);
    if (PANELS[panel.type][2]) declare(`${origin} (custom)`, `Partial<${alias}.FieldConfig>`, panel.fieldConfig.defaults.custom);
  }
}
if (count === 0) throw new Error(`${folder}: no panels`);

const generated = path.join(__dirname, "dashboards.generated.ts");
fs.writeFileSync(generated, lines.join("\n") + "\nexport {};\n");
try {
  const options = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  const program = ts.createProgram([generated], options);
  const diagnostics = ts.getPreEmitDiagnostics(program);
  for (const diagnostic of diagnostics) {
    const line = diagnostic.file ? diagnostic.file.getLineAndCharacterOfPosition(diagnostic.start).line + 1 : 0;
    console.error(`${origins[line] ?? `generated line ${line}`}: ${ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n  ")}`);
  }
  if (diagnostics.length > 0) process.exitCode = 1;
  else console.log(`dashboards: ${count} panels agree with Grafana's schema`);
} finally {
  fs.rmSync(generated, { force: true });
}
