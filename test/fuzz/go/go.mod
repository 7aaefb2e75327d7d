module headscale-watchdog/fuzz

go 1.26
