/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers that bindgen reads for rust/bindings.rs.
 */
#include <asm/ioctls.h>
#include <linux/errqueue.h>
#include <linux/net.h>
#include <linux/netdevice.h>
#include <linux/socket.h>
#include <linux/sockios.h>
#include <linux/poll.h>
#include <linux/workqueue.h>
#include <linux/bpf-cgroup.h>
#include <linux/inet_diag.h>
#include <linux/tcp.h>
#include <linux/ipv6.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <net/flow.h>
#include <net/inet_common.h>
#include <net/inet_ecn.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/sock.h>
#include <net/sock_reuseport.h>
#include <net/tcp.h>
#include <net/net_namespace.h>
#include <net/netlink.h>
#include <net/netns/generic.h>
#include <rdma/ib_verbs.h>
#include <rdma/ib_cm.h>
#include <rdma/rdma_cm.h>
#include <linux/sdp.h>
#include "helpers.h"
