// Package netns makes, holds and removes the network of banger's VMs.
//
// All of it lives in one network namespace, so that it can touch nothing of the
// host, nothing on the host can open it, and removing it is removing one
// namespace:
//
//	host                     |  namespace "banger"
//	                         |
//	eth0 --- banger0 =============== uplink0 --- br0 --+-- tap0 === VM in slot 0
//	  nft "banger":     veth |        nft "banger":    +-- tap1 === VM in slot 1
//	  masquerade, answers    |        policy per guest   ^
//	  only, no services      |        address            nft netdev "banger":
//	                         |                           one ingress filter per tap
//
// What a frame of a guest meets, in this order: the filter of its tap, which
// passes only the guest's own hardware and IP address; the bridge, whose taps
// are isolated from each other and flooded with nothing; the policy of its
// address, which drops what is not allowed by name; masquerading on the uplink;
// and the two rules of the host.
//
// Everything goes through rtnetlink, nftables and the ioctls of TUN devices; no
// program is started. Names are made here, from numbers, and every object bears
// the VM's id, so that [Namespace.Inventory] can say whose it is. Every step is
// idempotent: what stands is adopted, what is half made is finished, and
// removing what is gone is success.
//
// A [Namespace] is opened in one of two ways. [Ensure] is called in the host's
// network namespace and makes what is missing. The process then moves in with
// [Namespace.Exec], and calls [Open] there, where no right to change
// namespaces is needed.
package netns
