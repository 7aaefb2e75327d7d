import { describe, expect, it } from 'vitest';
import { certificateFor, listenWithTls } from '../support/certificate.ts';
import { printFigures } from '../support/figures.ts';
import { Headscale } from '../support/headscale.ts';
import { useLab } from '../support/lab.ts';
import { Phone } from '../support/phone.ts';
import { Watchdog } from '../support/watchdog.ts';

// A lab of its own: a client of any other login server on this address would try port 80 first as well.
describe('ports 80 and 443, as clients expect them; Headscale 0.29.2', () => {
  const here = useLab();

  it('clients with a server URL without a port connect on 80 and 443, and browsers are redirected to HTTPS', async () => {
    const { lab } = here;
    const { address } = lab.server;
    const certificate = await certificateFor(lab);
    const headscale = await Headscale.start(lab);
    const on80 = ['--listen', `http://${address}:80?redirect=true`];
    const watchdog = await Watchdog.start(lab, headscale, ...on80, '--listen', listenWithTls(lab, 443, certificate));
    const phone = new Phone(lab, 'no-port');
    await phone.logIn(`https://${address}`, await headscale.authKey());
    const stream = await watchdog.onlyStreamFrom(phone.host.address);
    const answer = await lab.reach.get(`${address}:80`, '/register/x');
    printFigures('a server URL without a port', [
      [
        'handshakes of one client, of which the loser closes at once',
        String((await watchdog.metrics()).sum('handshakes_total')),
      ],
      ['GET http://…/register/x', String(answer.status)],
    ]);
    expect(stream.state).toBe('open');
    expect(answer.status).toBe(302);
    expect((await lab.reach.get(`${address}:80`, '/generate_204')).status).toBe(204);
    expect((await watchdog.metrics()).sum('takeovers_total')).toBe(0);
    expect(watchdog.errors()).toEqual([]);
    await phone.shutDown();
  });
});
