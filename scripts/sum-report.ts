/**
 * Reads a vitest JSON report: prints "PASSED FAILED SKIPPED", and appends to a file what failed, each with the beginning of its message.
 * Usage: node scripts/sum-report.ts REPORT FAILURES. A test file that does not even load counts as one failure.
 */
import { appendFileSync, readFileSync } from "node:fs";
import { relative } from "node:path";
import { stripVTControlCharacters } from "node:util";

type Case = { fullName: string; status: string; failureMessages: string[] };
type Report = {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTodoTests: number;
  testResults: { name: string; status: string; message: string; assertionResults: Case[] }[];
};

const [reportPath = "", failuresPath = ""] = process.argv.slice(2);
const report = JSON.parse(readFileSync(reportPath, "utf8")) as Report;

const beginning = (text: string) =>
  stripVTControlCharacters(text)
    .split("\n")
    .filter((line) => !line.includes("/node_modules/"))
    .slice(0, 12)
    .map((line) => `      ${line.slice(0, 300)}`)
    .join("\n");

let unloaded = 0;
for (const file of report.testResults.filter((each) => each.status === "failed")) {
  const name = relative(".", file.name);
  const failed = file.assertionResults.filter((each) => each.status === "failed");
  if (failed.length === 0) {
    unloaded++;
    appendFileSync(failuresPath, `  ${name}\n${beginning(file.message)}\n`);
  }
  for (const each of failed)
    appendFileSync(failuresPath, `  ${name}: ${each.fullName}\n${beginning(each.failureMessages.join("\n"))}\n`);
}
console.log(report.numPassedTests, report.numFailedTests + unloaded, report.numPendingTests + report.numTodoTests);
