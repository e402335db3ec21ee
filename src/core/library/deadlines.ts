/** How long the steps of a container's life may take, in milliseconds. */
export const startDeadlineMs = 120_000;
export const freezeDeadlineMs = 30_000;
export const destroyDeadlineMs = 60_000;
