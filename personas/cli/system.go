package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"banger/install/inventory"
	"banger/personas/api"
)

// systemCmd is the noun system.
type systemCmd struct {
	Install   installCmd       `cmd:"" help:"Install banger's services on this host, or upgrade them."`
	Status    statusCmd        `cmd:"" help:"Tell how the services are, and what VMs get."`
	Restart   restartSystemCmd `cmd:"" help:"Restart both services; VMs run on."`
	Uninstall uninstallCmd     `cmd:"" help:"Take banger off this host."`
	Inventory inventoryCmd     `cmd:"" help:"List every object on this host that is banger's, as JSON."`
}

// inventoryCmd is `banger system inventory`.
type inventoryCmd struct{}

// Help returns examples.
func (inventoryCmd) Help() string {
	return `Links, tap devices, filters, loop devices, mounts, cgroups, network namespaces, jails, sockets and VMM processes: while the same daemons run, it prints the same before a VM is made and after it is gone. Nothing is started or changed. Root sees all; what could not be read is said.

    sudo banger system inventory > before
    sudo banger vm run --rm -- true
    sudo banger system inventory | diff before -`
}

// found is what `banger system inventory` prints.
type found struct {
	// Host is what this process sees by itself.
	Host inventory.Inventory `json:"host"`
	// Helper is what the privileged helper sees in banger's own network
	// namespace. Null if no daemon runs, because then there is no helper.
	Helper json.RawMessage `json:"helper"`
}

// Run prints the inventory.
func (inventoryCmd) Run(ctx context.Context, a *app) error {
	host, err := inventory.Collect(ctx, a.config.Scope)
	if err != nil {
		return fmt.Errorf("collect inventory: %w", err)
	}
	helper, err := a.helperInventory(ctx)
	if err != nil {
		return fmt.Errorf("ask for inventory: %w", err)
	}
	return a.printJSON(found{Host: host, Helper: helper})
}

// quickTimeout bounds questions to a daemon that may as well not be there.
const quickTimeout = 10 * time.Second

// helperInventory asks a daemon that runs, and returns null if none does. The
// document is decoded and encoded again, so that its keys are sorted.
func (a *app) helperInventory(ctx context.Context) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	raw, err := a.client().Inventory(ctx)
	var refused *api.Error
	switch {
	case errors.As(err, &refused) && refused.Code == api.CodeNoHelper:
		return json.RawMessage("null"), nil
	case errors.As(err, &refused):
		return nil, err
	case err != nil:
		return json.RawMessage("null"), nil
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
