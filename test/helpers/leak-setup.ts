/** Around every file of the integration and fault tests: what it made on the machine is gone when its last hook has run. */
import { afterAll, beforeAll } from "vitest";
import { expectNoLeaks, type Inventory, takeInventory } from "./leak-check.ts";

let before: Inventory;
beforeAll(() => {
  before = takeInventory();
});
// Hooks that end something run in the reverse order of their making: this one is the last.
afterAll(async () => await expectNoLeaks(before));
