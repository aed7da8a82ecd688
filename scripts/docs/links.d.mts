export function anchorOf(heading: string): string;
export function brokenLinks(): string[];
