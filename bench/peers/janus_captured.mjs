import { openJanus } from "./janus.mjs";

export const open = () => openJanus(true);
