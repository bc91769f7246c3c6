package rig

import (
	"context"
	"errors"

	"banger/testdata/lab/tree"
)

func startMachine(ctx context.Context, dir string, t tree.Tree, agent string, config Config) (base, error) {
	return nil, errors.New("not yet")
}
