export async function get(
  url: string,
): Promise<{ readonly status: number; readonly type: string | null; readonly text: string }> {
  const response = await fetch(url, { headers: { connection: 'close' } });
  return { status: response.status, type: response.headers.get('content-type'), text: await response.text() };
}

/** The samples of a scrape, by name and labels. */
export async function scrape(admin: string): Promise<ReadonlyMap<string, number>> {
  const lines = (await get(`${admin}/metrics`)).text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  );
}
