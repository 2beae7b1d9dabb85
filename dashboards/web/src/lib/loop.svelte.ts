// The page's view of the loop: the state by WebSocket, the lists by HTTP, and whether they are fresh.

import { mergeHistory, sinceMs } from './charts';
import type { GameInfo, History, LoopStatus, ModelInfo, StageName } from './types';

const STALE_AFTER_MS = 5_000;
const RATES_KEPT = 90;

export type Link = 'connecting' | 'live' | 'lost';

export function socketUrl(path: string): string {
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${path}`;
}

/** Waits longer after each failure, up to five seconds, never in step with other pages. */
export function retryDelay(failures: number, random = Math.random()): number {
  return Math.min(5_000, 400 * 2 ** Math.min(failures, 5)) * (0.7 + 0.6 * random);
}

async function get<T>(path: string): Promise<T> {
  const response = await fetch(path, { headers: { accept: 'application/json' } });
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  return (await response.json()) as T;
}

class Loop {
  status = $state.raw<LoopStatus | null>(null);
  history = $state.raw<History>({ scores: [], swaps: [], loss: [], latency: [] });
  /** False until the first answers are here: what is missing until then is not missing in the loop. */
  historyKnown = $state(false);
  modelsKnown = $state(false);
  models = $state.raw<ModelInfo[]>([]);
  games = $state.raw<GameInfo[]>([]);
  rates = $state.raw<Partial<Record<StageName, number[]>>>({});
  link = $state<Link>('connecting');
  lostSinceMs = $state<number | null>(null);
  /** Bumped by every state, so that ages are shown anew. */
  nowMs = $state(Date.now());

  #socket: WebSocket | null = null;
  #failures = 0;
  #heardMs = 0;
  #startedMs = 0;
  #timers: ReturnType<typeof setTimeout>[] = [];
  #open = false;

  start(): () => void {
    this.#open = true;
    this.#connect();
    this.#every(2_000, () => this.#fetchHistory());
    this.#every(2_500, () => this.#fetchModels());
    this.#every(2_000, () => this.#fetchGames());
    const watch = setInterval(() => {
      this.nowMs = Date.now();
      if (this.link === 'live' && Date.now() - this.#heardMs > STALE_AFTER_MS) this.#lost(this.#heardMs);
    }, 1_000);
    return () => {
      this.#open = false;
      clearInterval(watch);
      for (const timer of this.#timers) clearTimeout(timer);
      this.#socket?.close();
    };
  }

  /** Reads the table again, after a change made here. */
  async refreshModels(): Promise<void> {
    await this.#fetchModels();
  }

  #connect(): void {
    const socket = new WebSocket(socketUrl('/ws'));
    this.#socket = socket;
    socket.onmessage = (message: MessageEvent<string>) => {
      const { status } = JSON.parse(message.data) as { status: LoopStatus };
      this.#heardMs = Date.now();
      this.nowMs = this.#heardMs;
      this.#failures = 0;
      this.link = 'live';
      this.lostSinceMs = null;
      if (status.started_at_ms !== this.#startedMs) {
        // Another run answers now: its history begins anew.
        const again = this.#startedMs !== 0;
        this.#startedMs = status.started_at_ms;
        if (again) {
          this.history = { scores: [], swaps: [], loss: [], latency: [] };
          this.rates = {};
          void this.#fetchHistory().catch(() => undefined);
        }
      }
      this.status = status;
      this.#keepRates(status);
    };
    socket.onclose = () => {
      if (!this.#open || this.#socket !== socket) return;
      this.#lost(this.#heardMs || Date.now());
      this.#timers.push(setTimeout(() => this.#open && this.#connect(), retryDelay(this.#failures++)));
      this.#timers = this.#timers.slice(-16);
    };
  }

  #lost(sinceMs: number): void {
    this.link = 'lost';
    this.lostSinceMs ??= sinceMs;
  }

  #keepRates(status: LoopStatus): void {
    const rates: Partial<Record<StageName, number[]>> = {};
    for (const stage of status.stages) {
      rates[stage.name] = [...(this.rates[stage.name] ?? []), stage.rate ?? 0].slice(-RATES_KEPT);
    }
    this.rates = rates;
  }

  async #fetchHistory(): Promise<void> {
    const [since, run] = [sinceMs(this.history), this.#startedMs];
    const news = await get<History>(since === null ? '/v1/history' : `/v1/history?since_ms=${since}`);
    // An answer that was asked for before another run began would leave a hole.
    if (since !== null && run !== this.#startedMs) return;
    this.history = mergeHistory(this.history, news);
    this.historyKnown = true;
  }

  async #fetchModels(): Promise<void> {
    this.models = (await get<{ items: ModelInfo[] }>('/v1/models')).items;
    this.modelsKnown = true;
  }

  async #fetchGames(): Promise<void> {
    this.games = (await get<{ items: GameInfo[] }>('/v1/games')).items;
  }

  /** Runs `work` now and after each pause; while the link is lost or the tab hidden it only waits. */
  #every(pauseMs: number, work: () => Promise<void>): void {
    const round = async () => {
      if (!this.#open) return;
      if (this.link !== 'lost' && !document.hidden) {
        try {
          await work();
        } catch {
          // The socket notices when the loop is away and says so; a single failed list is asked for again.
        }
      }
      setTimeout(round, pauseMs);
    };
    void round();
  }
}

export const loop = new Loop();

/** Asks for a move of the champion; throws with the words of the problem. */
export async function moveChampion(
  modelKey: string,
  kind: 'promote' | 'rollback',
  body: Record<string, unknown>,
): Promise<void> {
  const response = await fetch(`/v1/models/${encodeURIComponent(modelKey)}/${kind}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (response.ok) return;
  let text = `the loop answered ${response.status}`;
  try {
    const problem = (await response.json()) as { detail?: string; hint?: string };
    text = [problem.detail, problem.hint].filter(Boolean).join('; ') || text;
  } catch {
    // No problem document; the status has to do.
  }
  throw new Error(text);
}
