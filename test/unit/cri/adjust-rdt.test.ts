import { expect, it } from "vitest";
import { adjustRdt } from "../../../src/cri/adjust-rdt.ts";
import { LinuxRdt } from "../../../src/gen/nri/v1alpha1/api.ts";

const rdt = (wanted: Parameters<typeof LinuxRdt.fromPartial>[0]): LinuxRdt => LinuxRdt.fromPartial(wanted);
const ofDevice = { closID: "device", schemata: ["L3:0=f"] };

it("leaves the class that a device brings, when nobody wants another", () => {
  expect(adjustRdt(ofDevice, undefined, undefined)).toBe(ofDevice);
  expect(adjustRdt(undefined, rdt({}), undefined)).toBeUndefined();
});

it("takes a class by its name alone, and the empty one for none", () => {
  expect(adjustRdt(ofDevice, undefined, "gold")).toEqual({ closID: "gold" });
  expect(adjustRdt(ofDevice, undefined, "")).toBeUndefined();
});

it("changes what it is told, and begins anew when it is told to remove", () => {
  expect(adjustRdt(ofDevice, rdt({ enableMonitoring: { value: true } }), undefined)).toEqual({
    ...ofDevice,
    enableMonitoring: true,
  });
  expect(adjustRdt(ofDevice, rdt({ remove: true, schemata: { value: ["MB:0=50"] } }), undefined)).toEqual({
    schemata: ["MB:0=50"],
  });
  expect(adjustRdt(ofDevice, rdt({ remove: true }), undefined)).toBeUndefined();
  expect(adjustRdt(ofDevice, rdt({ remove: true, closId: { value: "gold" } }), "gold")).toEqual({ closID: "gold" });
});

it("refuses two names for one class", () => {
  expect(() => adjustRdt(undefined, rdt({ closId: { value: "silver" } }), "gold")).toThrow(
    /rdt_class "gold" and rdt.clos_id "silver"/,
  );
});
