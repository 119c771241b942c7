/*-------------------------------------------------------------------------
 *
 * node.h
 *	  All states of a node: what the entries that it owns add up to.
 *
 * Stored form of cdp.node_state, after the varlena header:
 *
 *	version			one byte
 *	length			varint, of the declared traits in bytes
 *	  n				varint, stamps; each: at, tie
 *	  n				varint, keys in order; each: key, number of its stamp,
 *					0 (removed) or 1 and the jsonb value
 *	n				varint, states in order of their trait's id; each: id,
 *					one byte (CdpStateCode), type, length, state
 *
 * The keys that one identify call sets share a stamp.  State bodies are opaque
 * here (state.h) and are copied unread unless something is folded in.
 *
 * IDENTIFICATION
 *	  src/traits/node.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_NODE_H
#define CDP_NODE_H

#include "traits/state.h"

#define CDP_NODE_VERSION	1

/* One declared trait: the last writer of its key. */
typedef struct CdpDeclared
{
	const char *key;
	int			keylen;
	TimestampTz at;
	const text *tie;
	Jsonb	   *value;			/* NULL: removed */
	bool		written;		/* since the node was opened */
} CdpDeclared;

typedef struct CdpNodeSlot
{
	const char *raw;			/* stored body, NULL when there is none */
	int			rawlen;
	CdpState   *state;			/* opened; supersedes raw */
	uint8		code;			/* of raw, see CdpStateCode */
	bool		dirty;
	Oid			type;			/* of raw */
} CdpNodeSlot;

struct CdpNodeAcc
{
	CdpTraitSet *set;
	MemoryContext context;
	struct varlena *disk;		/* as given, detoasted */
	bool		dirty;
	bool		reset;			/* states were taken away */
	CdpNodeSlot *slots;			/* by trait index */
	const char *declared_raw;
	int			declared_rawlen;
	bool		declared_open;
	bool		declared_dirty;
	int			ndeclared;
	int			maxdeclared;
	CdpDeclared *declared;		/* by key, bytewise */
	List	   *forgotten;		/* ids of traits whose windows' rows are to be deleted */
};

/* CdpNodeClose, with the result in another context. */
extern struct varlena *CdpNodeCloseIn(CdpNodeAcc *acc, TimestampTz clock, MemoryContext context);
/* The trait's state, opened; NULL when nothing has been folded. */
extern CdpState *CdpNodeState(CdpNodeAcc *acc, int index);
/* chunk.c: a slot's state is about to be taken away. */
extern void CdpChunksForget(CdpNodeAcc *acc, int index);
/* Open the declared traits, acc->declared[0 .. ndeclared - 1]. */
extern void CdpNodeDeclared(CdpNodeAcc *acc);
/* Position of a key, or where it belongs. */
extern int	CdpNodeDeclaredSearch(CdpNodeAcc *acc, const char *key, int keylen, bool *found);

/* value.c: keys that differ in nothing but case */
extern bool CdpSameKeyAnyCase(const char *a, int alen, const char *b, int blen);

#endif							/* CDP_NODE_H */
