import type { Happening, History } from '../history/history.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { StreamId } from '../streams/stream.ts';
import type { EventView } from './event-list.ts';
import type { StreamView } from './stream-list.ts';

/** What the admin server shows, asked anew for every request, and what it can have done. */
export interface AdminPorts {
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
  readiness(): { readonly ready: boolean; readonly detail: object };
  /** In the order they were opened, replica by replica. */
  streams(): Promise<readonly StreamView[]>;
  nodes(): readonly object[];
  /** The head of the status page. */
  overview(): object;
  readonly history: History;
  eventView(happening: Happening): EventView;
  /** The machine keys of a node, by its name, its id, or one of its keys; none where nobody is called so. */
  keysOf(node: string): ReadonlySet<MachineKey>;
  /** @param replica whose stream it is; undefined: ours. `asked`: it has been told, and does it by itself. */
  sever(id: StreamId, replica: string | undefined): 'severed' | 'ending' | 'unknown' | 'asked';
  /** Applies the configuration as it is now. */
  reload(): { readonly ok: boolean };
  failed(during: string, error: unknown): void;
}
