import { createSocket } from 'node:dgram';
import { isIPv4 } from 'node:net';
import { StartError } from '../lib/errors.ts';

// Format: RFC 8489, sections 5 (header) and 14.2 (XOR-MAPPED-ADDRESS).
const BINDING_REQUEST = 0x0001;
const BINDING_SUCCESS = 0x0101;
const MAGIC_COOKIE = 0x2112a442;
const HEADER_LENGTH = 20;
const XOR_MAPPED_ADDRESS = 0x0020;
const IPV4 = 1;

interface StunResponder {
  readonly port: number;
  close(): Promise<void>;
}

/**
 * Answers STUN binding requests over IPv4: it tells a client the address from which its request came. Without an answer a
 * tailscaled needs three more seconds to reach Running.
 *
 * @throws StartError if it cannot listen.
 */
export async function startStunResponder(host: string): Promise<StunResponder> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve, reject) => {
    socket.once('error', (cause) => {
      reject(
        new StartError('HSW_LISTEN_FAILED', `The STUN responder cannot listen on ${host}: ${cause.message}`, { cause }),
      );
    });
    socket.bind(0, isIPv4(host) ? host : '0.0.0.0', resolve);
  });
  socket.on('error', () => {});
  socket.on('message', (request, { address, port }) => {
    const response = answerBinding(request, address, port);
    // Errors are ignored, because STUN clients repeat their requests.
    if (response !== undefined) socket.send(response, port, address, () => {});
  });
  return {
    port: socket.address().port,
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

/** Answers a binding request that came from `address` (IPv4) and `port`. @returns undefined if it is not a binding request. */
export function answerBinding(request: Buffer, address: string, port: number): Buffer | undefined {
  if (request.length < HEADER_LENGTH) return undefined;
  if (request.readUInt16BE(0) !== BINDING_REQUEST || request.readUInt32BE(4) !== MAGIC_COOKIE) return undefined;
  const attribute = Buffer.alloc(12);
  attribute.writeUInt16BE(XOR_MAPPED_ADDRESS, 0);
  attribute.writeUInt16BE(8, 2);
  attribute.writeUInt8(IPV4, 5);
  attribute.writeUInt16BE(port ^ (MAGIC_COOKIE >>> 16), 6);
  const ip = Buffer.from(address.split('.').map(Number)).readUInt32BE(0);
  attribute.writeUInt32BE((ip ^ MAGIC_COOKIE) >>> 0, 8);
  const header = Buffer.from(request.subarray(0, HEADER_LENGTH));
  header.writeUInt16BE(BINDING_SUCCESS, 0);
  header.writeUInt16BE(attribute.length, 2);
  return Buffer.concat([header, attribute]);
}
