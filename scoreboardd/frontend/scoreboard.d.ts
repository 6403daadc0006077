/**
 * Types of scoreboard.js. Every `number` is exact: documents and deltas with an integer beyond `Number.MAX_SAFE_INTEGER`,
 * which JavaScript would round, are refused.
 */

export type Kind = "teams" | "users";

export interface Version {
  epoch: string;
  number: number;
}

export interface Challenge {
  id: number;
  title: string;
  category: string;
  points: number;
}

export interface Solve {
  challenge_id: number;
  /** RFC 3339, UTC. */
  solved_at: string;
  is_first_blood: boolean;
  /** The number of the row, where equal scores are ordered by it. */
  sequence?: number;
}

/** Points that no challenge gives: an award, or the cost of a hint. */
export interface Adjustment {
  /** RFC 3339, UTC. */
  at: string;
  points: number;
  sequence?: number;
}

/** A line of the board. Teams have `team_id` and `team_name`, users `user_id` and `username`. */
export interface Entry {
  team_id?: number;
  team_name?: string;
  user_id?: number;
  username?: string;
  score: number;
  solves: Solve[];
  /** Where there are any. */
  adjustments?: Adjustment[];
}

/** How equal scores are ordered. Absent: "static". */
export type Order = "static" | "last_solve" | "last_row";

export interface Document {
  challenges: Challenge[];
  order?: Order;
  entries: Entry[];
}

export interface OwnersDelta {
  put?: [id: number, name: string][];
  drop?: number[];
  solves?: [id: number, challenge: number, solvedAt: string, firstBlood: 0 | 1, sequence?: number][];
  unsolves?: [id: number, challenge: number][];
  /** All adjustments of each owner that has others than before. */
  adjustments?: [id: number, adjustments: [at: string, points: number, sequence?: number][]][];
}

/** The data of a `delta` event: it leads from any version of its epoch from `from` on to `version`. */
export interface Delta {
  from: number;
  version: number;
  challenges?: { put?: Challenge[]; drop?: number[]; points?: [id: number, points: number][] };
  users?: OwnersDelta;
  teams?: OwnersDelta;
}

/** The teams or the users at one version. Immutable. */
export class Board {
  constructor(kind: Kind, version: Version, challenges: Challenge[], entries: Entry[], order?: Order);
  /** Throws a RangeError if an id, points or a score is beyond `Number.MAX_SAFE_INTEGER`. */
  static fromDocument(kind: Kind, version: Version, document: Document): Board;
  readonly kind: Kind;
  readonly version: Version;
  /** By id. */
  readonly challenges: Challenge[];
  /** By rank: the first is the leader. */
  readonly entries: Entry[];
  readonly byId: Map<number, Entry>;
  /** What `GET /api/leaderboard` would answer; `JSON.stringify` makes the same bytes of it. */
  readonly document: Document;
  idOf(entry: Entry): number;
  nameOf(entry: Entry): string;
  /**
   * The board that a delta leads to which begins at this version or before, and ends after it. Throws if it is no delta, or
   * does not fit this board, or has a number beyond `Number.MAX_SAFE_INTEGER`.
   */
  apply(delta: Delta): Board;
  /** The same board at another version. */
  at(version: Version): Board;
}

export interface Options {
  /** Where the daemon answers; "/" by default. Another origin has to be in `server.cors_origins`. */
  url?: string;
  /** What to keep; `["teams"]` by default. */
  boards?: Kind[];
  /** A division's id, as text if it is beyond `Number.MAX_SAFE_INTEGER`; null, the default, is everyone. */
  division?: number | string | null;
  /** Ask for deltas; true by default. Without them every change is a fetch. */
  deltas?: boolean;
  /** One stream for all tabs of this origin; true by default. */
  share?: boolean;
}

export interface State {
  /**
   * - connecting: there is no board yet.
   * - live: every change is heard of.
   * - reconnecting: it is not; what is shown is of `since`.
   */
  status: "connecting" | "live" | "reconnecting" | "closed";
  /** Milliseconds since 1970: up to when what is shown was known to be current. null: it is current now. */
  since: number | null;
  /** The server says of its own document that it is out of date, and has been for half a minute. */
  stale: boolean;
  /** This tab holds the stream for all tabs. */
  leading: boolean;
  /** Why the last fetch failed, in words: also that a document had a number that JavaScript would round. */
  problem: string | null;
}

export interface BoardChange {
  kind: Kind;
  board: Board;
  before: Board | null;
  /** elsewhere: nothing but the version differs, for the change was in other divisions. */
  reason: "delta" | "refetch" | "verify" | "elsewhere";
}

interface Events {
  board: Event & { readonly detail: BoardChange };
  state: Event & { readonly detail: State };
}

/** Keeps boards current. Works in a page, in a worker, and under Node. */
export class Scoreboard extends EventTarget {
  constructor(options?: Options);
  readonly state: State;
  board(kind: Kind): Board | null;
  start(): void;
  close(): void;
  /** Look at once: the page is visible again, or the network is back. */
  wake(): void;
  /** Fetch and compare. False if something differed, or was missing; what was fetched is shown then. */
  verify(): Promise<boolean>;
  addEventListener<K extends keyof Events>(
    type: K,
    listener: ((event: Events[K]) => void) | { handleEvent(event: Events[K]): void } | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export function parseVersion(text: string | null | undefined): Version | null;
export function showVersion(version: Version): string;
export function reaches(held: Version | null, version: Version): boolean;
export function compareBytes(a: string, b: string): number;

export interface StreamEvent<T = string> {
  id: string;
  event: string;
  data: T;
  /** The id of the event before it. */
  after?: string;
}

export class StreamParser {
  /** Milliseconds. */
  retry: number | null;
  /** `text` as a TextDecoder gives it. Throws a RangeError at a line or an event of more than 8 Mi characters. */
  feed(text: string): StreamEvent[];
}

export type Decision =
  | { do: "ignore" }
  | { do: "apply" }
  | { do: "advance"; version: Version }
  | { do: "refetch"; version: Version; within: number; after?: number };

export function decide(held: Version | null, event: StreamEvent<any>, division?: number | null): Decision;
export function backoff(attempt: number, retry: number, random: number): number;
