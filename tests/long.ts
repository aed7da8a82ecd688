/** Whether tests take their long form, which `npm run test:long` asks for: more kills, whole grids. */
export const isLong = typeof process !== "undefined" && Boolean(process.env["JANUS_TEST_LONG"]);
