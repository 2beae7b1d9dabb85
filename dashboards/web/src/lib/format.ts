// Numbers and times as people read them. All pure.

const THIN = '\u202f';

/** `12400` → `12,400`; fractions keep what a reader needs. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString('en-US', { minimumFractionDigits: 0, maximumFractionDigits: digits });
}

/** `12400` → `12.4 k`; below a thousand like `number`. */
export function compact(value: number): string {
  if (!Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  for (const [limit, unit] of [
    [1e9, 'G'],
    [1e6, 'M'],
    [1e4, 'k'],
  ] as const) {
    if (size >= limit) {
      const scale = limit === 1e4 ? 1e3 : limit;
      const scaled = value / scale;
      return `${scaled.toFixed(Math.abs(scaled) >= 100 ? 0 : 1)}${THIN}${unit}`;
    }
  }
  return number(size < 1000 && size >= 10 ? Math.round(value * 10) / 10 : value);
}

/** Microseconds → `420 µs`, `1.3 ms`, `2.1 s`. */
export function micros(us: number | null | undefined): string {
  if (us == null || !Number.isFinite(us)) return '–';
  if (us < 10) return `${us.toFixed(1)}${THIN}µs`;
  if (us < 1000) return `${us.toFixed(0)}${THIN}µs`;
  return millis(us / 1000);
}

/** Milliseconds → `0.4 ms`, `320 ms`, `1.8 s`, `2 min`. */
export function millis(ms: number | null | undefined): string {
  if (ms == null || !Number.isFinite(ms)) return '–';
  if (ms < 10) return `${ms.toFixed(1)}${THIN}ms`;
  if (ms < 1000) return `${ms.toFixed(0)}${THIN}ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)}${THIN}s`;
  return duration(ms / 1000);
}

/** Seconds → `48 s`, `4 min 12 s`, `2 h 03 min`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '–';
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}${THIN}s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}${THIN}min ${whole % 60}${THIN}s`;
  const hours = Math.floor(minutes / 60);
  return `${hours}${THIN}h ${String(minutes % 60).padStart(2, '0')}${THIN}min`;
}

/** A share of one → `62 %`. */
export function percent(share: number | null | undefined): string {
  if (share == null || !Number.isFinite(share)) return '–';
  return `${Math.round(share * 100)}${THIN}%`;
}

/** How far behind a stage is, in its unit. */
export function lag(value: number, unit: string): string {
  if (unit === 'ms') return millis(value);
  if (unit === 's') return millis(value * 1000);
  if (unit === 'us' || unit === 'µs') return micros(value);
  return `${compact(value)} ${unit}`.trim();
}

/** Time since, in words. */
export function ago(thenMs: number, nowMs: number): string {
  const seconds = Math.max(0, (nowMs - thenMs) / 1000);
  return seconds < 2 ? 'just now' : `${duration(seconds)} ago`;
}

/** `12:04:33`, local time. */
export function clock(ms: number): string {
  return new Date(ms).toLocaleTimeString('en-GB');
}

/** `buffer_len` → `buffer len`. */
export function words(key: string): string {
  return key.replaceAll('_', ' ');
}

/** Any figure of a stage's details. */
export function figure(value: unknown): string {
  if (typeof value === 'number') return compact(value);
  if (typeof value === 'string') return value;
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  return value == null ? '–' : JSON.stringify(value);
}

/** `Stage01.json` → `Stage01`. */
export function mapName(map: string): string {
  return map.replace(/^maps[\\/]/, '').replace(/\.json$/, '');
}
