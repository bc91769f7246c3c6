package daemon

import "context"

func (d *Daemon) resolve(ctx context.Context) { <-ctx.Done() }
