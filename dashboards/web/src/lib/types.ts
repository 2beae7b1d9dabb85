// What the server sends; the names are those of the Rust types in servers/control.

export type StageName = 'play' | 'stream' | 'land' | 'learn' | 'judge' | 'swap';
export type StageState = 'running' | 'waiting' | 'stopped' | 'failed';
export type Verdict = 'waiting' | 'judging' | 'promoted' | 'refused' | 'rolled_back';

export interface StageStatus {
  name: StageName;
  state: StageState;
  line: string;
  why_waiting: string | null;
  progress: number | null;
  rate: number | null;
  rate_unit: string;
  lag: number | null;
  lag_unit: string;
  details: Record<string, unknown>;
}

export interface OpponentScore {
  opponent: string;
  games: number;
  score: number;
}

export interface Champion {
  model_key: string;
  version: number;
  since_ms: number;
  previous: number | null;
  scores: OpponentScore[];
  rating: number | null;
}

export interface Candidate {
  model_key: string;
  version: number;
  games: number;
  games_cap: number;
  line: string;
}

export interface SwapPoint {
  t_ms: number;
  from: number | null;
  to: number;
  reason: string;
  took_ms: number | null;
}

export interface Decisions {
  requested: number;
  answered: number;
  mixed: number;
  per_second: number;
  p50_us: number | null;
  p99_us: number | null;
}

export interface Degraded {
  /** `log`, `store`, `catalog`, `disk` or `archive`. */
  what: string;
  since_ms: number;
  why: string;
  meanwhile: string;
}

export interface LoopStatus {
  version: string;
  started_at_ms: number;
  now_ms: number;
  seconds: number;
  run_for_seconds: number | null;
  device: string;
  stages: StageStatus[];
  /** What the loop does without for now. */
  degraded: Degraded[];
  champion: Champion | null;
  candidate: Candidate | null;
  last_swap: SwapPoint | null;
  decisions: Decisions;
  counters: Record<string, number>;
}

export interface ScorePoint {
  t_ms: number;
  version: number;
  opponent: string;
  games: number;
  score: number;
  source: 'judge' | 'live';
}

export interface LossPoint {
  t_ms: number;
  step: number;
  loss: number;
}

export interface LatencyPoint {
  t_ms: number;
  p50_us: number;
  p99_us: number;
}

export interface History {
  scores: ScorePoint[];
  swaps: SwapPoint[];
  loss: LossPoint[];
  latency: LatencyPoint[];
}

export interface GameInfo {
  id: string;
  system: string;
  map: string;
  opponent: string;
  model: string | null;
  source: string;
  tick: number;
  started_at_ms: number;
  ended: string | null;
}

export interface ModelInfo {
  model_key: string;
  version: number;
  parent: number | null;
  published_at_ms: number;
  aliases: string[];
  verdict: Verdict;
  verdict_line: string;
  scores: OpponentScore[];
  rating: number | null;
  train_steps: number | null;
  size_bytes: number;
  sha256: string;
}

export interface MapMessage {
  type: 'map';
  game: GameInfo;
  revision: number;
  tile_size: number;
  columns: number;
  rows: number;
  tiles: string;
}

export interface Tank {
  id: string;
  label: string;
  role: 'player' | 'ai';
  x: number;
  y: number;
  dirX: number;
  dirY: number;
  health: number;
  maxHealth: number;
}

export interface Bullet {
  id: string;
  x: number;
  y: number;
  radius: number;
}

export interface Effect {
  type: string;
  name?: string;
  x?: number;
  y?: number;
}

export interface TankState {
  tick: number;
  players: Tank[];
  bullets: Bullet[];
  events?: Effect[];
  gameOver?: boolean;
  gameOverReason?: string | null;
  stats?: { ticks: number; enemiesDestroyed: number };
}

export interface FrameMessage {
  type: 'frame';
  tick: number;
  state: TankState;
}

export interface EndMessage {
  type: 'end';
  reason: string;
}

export type GameMessage = MapMessage | FrameMessage | EndMessage;
