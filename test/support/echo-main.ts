import { createServer } from 'node:http';

// An upstream in a process of its own, to be killed and stopped: answers every upgrade, and echoes.
createServer((_request, response) => response.writeHead(404).end())
  .on('upgrade', (_request, socket, head) => {
    socket.on('error', () => {}).on('end', () => socket.end());
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: Upgrade\r\n\r\n',
    );
    socket.write(head);
    socket.pipe(socket);
  })
  .listen(Number(process.argv[2]), '127.0.0.1', () => process.stdout.write('listening\n'));
