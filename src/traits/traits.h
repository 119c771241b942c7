/*-------------------------------------------------------------------------
 *
 * traits.h
 *	  Definitions of traits, the states that they fold entries into, and the
 *	  values that a profile's states yield at an instant.
 *
 * IDENTIFICATION
 *	  src/traits/traits.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_TRAITS_H
#define CDP_TRAITS_H

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "collect/collect.h"
#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"

/* Numbers are stored: new ones come at the end. */
typedef enum CdpAggregate
{
	CDP_AGG_DECLARED = 1,		/* last writer of an identify key */
	CDP_AGG_EXPRESSION,			/* derived from other traits */
	CDP_AGG_COUNT,
	CDP_AGG_SUM,
	CDP_AGG_AVG,
	CDP_AGG_MIN,
	CDP_AGG_MAX,
	CDP_AGG_FIRST,
	CDP_AGG_LAST,
	CDP_AGG_UNIQUE_COUNT,
	CDP_AGG_MOST_FREQUENT,
	CDP_AGG_EXISTS,
	CDP_AGG_STDDEV,
	CDP_AGG_LEAST_FREQUENT,
	CDP_AGG_FIRST_TIME,
	CDP_AGG_LAST_TIME,
	CDP_AGG_LIST,
	CDP_AGG_UNIQUE_LIST,
	CDP_AGG_PERCENTILE,
	CDP_AGG_SESSIONS,
	CDP_AGG_SESSION_TIME,
	CDP_AGG_SESSION_LENGTH,
	CDP_AGG_SESSION_EVENTS,
	CDP_AGG_RATE,
	CDP_AGG_STREAK,
	CDP_AGG_LONGEST_STREAK,
	CDP_AGG_CONSENT,			/* hidden: what was said about a purpose, see consent.c */
	CDP_AGG_CONSENT_LATEST
} CdpAggregate;

/* Stored in five bits. */
#define CDP_AGG_LAST_ONE	CDP_AGG_CONSENT_LATEST

#define CDP_AGG_OF_CONSENT(aggregate) \
	((aggregate) == CDP_AGG_CONSENT || (aggregate) == CDP_AGG_CONSENT_LATEST)

typedef struct CdpTrait
{
	int32		id;				/* cdp.trait_definitions.id */
	int			index;			/* position in the set */
	char	   *name;			/* hidden ones have a generated name */
	bool		hidden;			/* made by a segment's behaviour term */
	bool		announce;		/* write trait_changed */
	CdpAggregate aggregate;
	Oid			type;			/* of the trait's value */
	int16		typlen;
	bool		typbyval;
	char		typalign;
	Oid			collation;		/* of the type; values compare under "C" */
	bool		windowed;
	bool		building;		/* history is not folded yet, or that of a trait it reads: no value */
	bool		version;		/* is to replace another one when it is built */
	int64		built;			/* entries of owners beyond this number do not count yet, see CdpTraitsBuilt */
	int32		member_trait;	/* of accounts, over members: their hidden trait, or less
								 * a segment of them; else 0 */
	bool		rollup;			/* of accounts: with all below it */
	Bitmapset  *depends;		/* derived: indexes of the traits that it reads */
	struct CdpTraitRules *rules;	/* private: expressions, event, window, … */
} CdpTrait;

/* All definitions of a generation, compiled; traits[] is ordered by id. */
typedef struct CdpTraitSet
{
	int64		generation;
	bool		accounts;		/* of accounts, not of profiles */
	int			ntraits;
	CdpTrait  **traits;
	int			nbuilding;		/* traits that are folded and not whole */
	MemoryContext context;
	struct CdpTraitIndex *lookup;	/* private: by event, by name */
} CdpTraitSet;

/*
 * The definitions as of now; generation as for CdpKindSetGet.  Lives until the
 * next call with another generation: hold no pointers across batches.
 */
extern CdpTraitSet *CdpTraitSetGet(int64 generation);
extern CdpTraitSet *CdpAccountTraitSetGet(int64 generation);	/* those of accounts */
/* The same as this transaction has left them, whatever the active snapshot sees. */
extern CdpTraitSet *CdpTraitSetFresh(void);
extern CdpTraitSet *CdpAccountTraitSetFresh(void);
extern CdpTrait *CdpTraitByName(CdpTraitSet *set, const char *name);	/* visible ones; NULL when unknown */
extern CdpTrait *CdpTraitById(CdpTraitSet *set, int32 id);
/* By any of the names that a definition may use for it. */
extern CdpTrait *CdpTraitLookup(CdpTraitSet *set, const char *name);

/*
 * The trait that a definition means by a name: exactly, else in any case when
 * unique; a declared key that has no definition yet gets one (*created) of the
 * one JSON type seen so far.  NULL when nothing of that name was ever seen.
 * The set stays valid and current.
 */
extern CdpTrait *CdpTraitResolve(CdpTraitSet *set, const char *name, bool *created);
/* Is its value hidden from the session's user?  See sensitive.h. */
extern bool CdpTraitHidden(CdpTraitSet *set, const CdpTrait *trait);

/* The instant that a read is about: never before what has been applied. */
extern TimestampTz CdpReadInstant(TimestampTz applied);

/* ---- versions whose history is being folded (traits/version.c) ---- */

/* Is there too much history to fold it at once? */
extern bool CdpBackfillLater(void);
/*
 * The definition (kind trait or segment) is built by the applier from now on.
 * replaces: the trait whose next version it is, or 0; fresh: nothing of its
 * name was there before.
 */
extern void CdpBackfillBegin(const char *kind, int32 id, int32 replaces, bool fresh);
/* It is not any more, whether whole or dropped; false when it was not. */
extern bool CdpBackfillEnd(const char *kind, int32 id);
/* How far the traits of the set are built, as the applier leaves it. */
extern void CdpTraitsBuilt(CdpTraitSet *set);
/* Its owner is gone, or it does not compile: nothing is folded into it. */
extern const char *CdpTraitSuspended(const CdpTrait *trait);	/* why, or NULL */
/* The version that is being built for a trait, 0: none. */
extern int32 CdpVersionOf(int32 trait_id);
/*
 * Entries that are nobody's count for accounts.  When traits of accounts are
 * built they are taken as if something with this number owned them, which is
 * smaller than that of any node.
 */
#define CDP_NOBODYS_OWNER(account_id)	((account_id) - (INT64CONST(1) << 62))

/* Forget a version. */
extern void CdpVersionDrop(int32 id);
/* It is whole: put it in the place of the one that it replaces, if any. */
extern void CdpVersionSwitch(int32 id);

/* ---- folding (traits/fold.c) ---- */

/* What one entry adds to one trait. */
typedef struct CdpContribution
{
	int			trait;			/* index in the set */
	bool		isnull;
	Datum		value;
} CdpContribution;

typedef struct CdpContributions
{
	int			n;
	CdpContribution *items;
} CdpContributions;

/*
 * Evaluate filter and value of all traits (or of those in "only", a set of
 * indexes, when not NULL) for n entries; entries with a reject_reason or
 * without owner are passed over.  out[i] belongs to entries[i]; everything is
 * allocated in the current context.  An expression that raises an error makes
 * no contribution and is counted in cdp.trait_errors.
 */
extern void CdpTraitsEvaluate(CdpTraitSet *set, const Bitmapset *only,
							  CdpEntry *entries, int n, CdpContributions *out);

/* A node's states in memory, open for folding. */
typedef struct CdpNodeAcc CdpNodeAcc;

/* disk may be NULL (a new node).  Allocates in the current context. */
extern CdpNodeAcc *CdpNodeOpen(CdpTraitSet *set, struct varlena *disk);
/* Forget the states of the traits in "only" (indexes; NULL = all, declared ones included). */
extern void CdpNodeReset(CdpNodeAcc *acc, const Bitmapset *only);
/* Fold an entry in; identify entries write their declared traits (skipped when only != NULL). */
extern void CdpNodeFold(CdpNodeAcc *acc, const CdpEntry *entry,
						const CdpContributions *contributions, bool declared);
/*
 * traits/unfold.c: take out again what an entry added that is of no declared traits.
 * False: the states must be folded anew, whatever has become of them.  clock: windows
 * that have ended by then have ended for good.
 */
extern bool CdpNodeUnfold(CdpNodeAcc *acc, const CdpEntry *entry,
						  const CdpContributions *contributions, TimestampTz clock);
/* traits/combine.c: add what one has to the other, which shares it from then on. */
extern void CdpNodeCombine(CdpNodeAcc *into, CdpNodeAcc *from);
extern void CdpNodeCombineSome(CdpNodeAcc *into, CdpNodeAcc *from, const Bitmapset *only);
/*
 * Add the traits (indexes) whose states of this node differ from the stored
 * ones; false when that is not known.
 */
extern bool CdpNodeChanges(const CdpNodeAcc *acc, Bitmapset **changed);
/*
 * The varlena to store, in the current context.  Window items that ended at
 * or before clock are dropped, as are states of traits that no longer exist.
 */
extern struct varlena *CdpNodeClose(CdpNodeAcc *acc, TimestampTz clock);
/*
 * traits/chunk.c: the same for what goes into the row of the node "owner"; rows
 * beside it are written.  CdpChunksDelete: those of nodes that are gone.
 */
extern struct varlena *CdpNodeStore(CdpNodeAcc *acc, int64 owner, TimestampTz clock,
									MemoryContext context);
extern void CdpChunksDelete(const int64 *owners, int n);

/* ---- values (traits/value.c) ---- */

typedef struct CdpProfileValues
{
	Datum	   *values;			/* by trait index */
	bool	   *isnull;
	TimestampTz next;			/* first instant after now at which a value changes by itself; DT_NOEND: never */
} CdpProfileValues;

/* A profile to be evaluated: its nodes, and where its values go. */
typedef struct CdpProfileStates
{
	CdpNodeAcc **nodes;
	int			nnodes;
	CdpProfileValues *out;
	const CdpProfileValues *given;	/* of traits with a member_trait; NULL: none */
	const Bitmapset *only;		/* indexes of the computed traits to look at; NULL: all */
} CdpProfileStates;

/* The values of all traits of many profiles, as of now. */
extern void CdpProfileEvaluateAll(CdpTraitSet *set, CdpProfileStates *profiles,
								  int nprofiles, TimestampTz now);
/* The same for the one profile made of these nodes. */
extern void CdpProfileEvaluate(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes,
							   TimestampTz now, CdpProfileValues *out);
/* {"trait": value, …}: declared keys and visible computed traits; NULLs left out. */
/* The same of values that have been evaluated. */
extern Jsonb *CdpProfileValuesJson(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes,
								   CdpProfileValues *values);
extern Jsonb *CdpProfileTraitsJson(CdpTraitSet *set, CdpNodeAcc **nodes, int nnodes,
								   TimestampTz now);
/* One value as jsonb (null when isnull). */
extern Datum CdpValueToJsonb(Datum value, bool isnull, Oid type);
/* The same as part of a larger jsonb; points into value, or to the current context. */
extern void CdpValueToJsonbValue(Datum value, bool isnull, Oid type, JsonbValue *v);

/* The declared value of this very key; NULL when there is none. */
extern Jsonb *CdpNodeDeclaredValue(CdpNodeAcc *acc, const char *key);

/* ---- accounts (traits/account_values.c) ---- */

/* Is a trait of accounts over this one of profiles, or one derived from it? */
extern List *CdpFeedsAccounts(int32 id);

typedef struct CdpAccountRow
{
	int64		id;
	struct varlena *identifier;
	TimestampTz first_seen;
	TimestampTz last_seen;
	struct varlena *parent;		/* NULL: none */
	int			nsegments;
	int32	   *segments;		/* that it is stored to be in */
	TimestampTz timer;			/* DT_NOEND: none */
	int64		shown;			/* what its members were told last, see apply/primary.c */
	CdpNodeAcc *acc;			/* with what is rolled up */
	CdpProfileValues values;
} CdpAccountRow;

/* What one member contributes to the traits over a member_trait; see CdpTrait. */
typedef struct CdpMemberValue
{
	int64		account;
	int32		member_trait;
	struct NumericData *value;
} CdpMemberValue;

/* What stands in the place of what is stored of some members. */
typedef struct CdpMembersNow
{
	int			nprofiles;
	int64	   *profiles;		/* whose contributions these are, ascending */
	int			nvalues;
	int			max;
	CdpMemberValue *values;
	TimestampTz next;			/* when one of those changes by itself */
} CdpMembersNow;

/* Tells what that is for members of these accounts, as of now. */
typedef CdpMembersNow *(*CdpMembersNowFunction) (CdpTraitSet *set, const int64 *accounts, int n,
												 TimestampTz now);

/*
 * Accounts by number, with the values of their traits as of now; those that
 * there are, in the order of their numbers.  members: NULL where what is stored
 * of members is what counts.  Runs SQL: inside SPI_connect and CdpBecomeOwner.
 */
extern CdpAccountRow *CdpAccountsRead(CdpTraitSet *set, const int64 *ids, int n,
									  TimestampTz now, CdpMembersNowFunction members,
									  int *nrows);

/*
 * The values of one account, of which id and acc are filled in: acc is what its
 * own entries add up to, what those below it have is added.  contributions are
 * those of the members of all of these.
 */
extern void CdpAccountValues(CdpTraitSet *set, CdpAccountRow *row, const int64 *below,
							 CdpNodeAcc **below_accs, int nbelow,
							 const CdpMemberValue *contributions, int ncontributions,
							 TimestampTz now);

/* Write the errors counted since the last call; the end of a batch calls it. */
extern void CdpTraitErrorsFlush(void);

/* ---- expressions (traits/expression.c), used by segments too ---- */

/*
 * Parse text as one SQL expression (raw grammar, nothing else accepted), with
 * error position in the text.  Returns the raw tree.
 */
extern Node *CdpParseRaw(const char *text);
/*
 * Resolve a column name to a Var-like node; NULL when unknown.  arg is the
 * caller's.
 */
typedef Node *(*CdpColumnResolver) (void *arg, const char *name, int location);
/*
 * Transform a raw expression, coerce it to target_type (InvalidOid: leave it),
 * refuse what definitions may not use (DESIGN §6: sub-selects, aggregates,
 * set-returning, volatile, non-built-in functions, clock functions, …), plan it.
 * text is the source for error positions.
 */
extern Expr *CdpTransform(Node *raw, const char *text, CdpColumnResolver resolver,
						  void *arg, Oid target_type, const char *what);
/*
 * The same for a definition with a time zone of its own (NULL: UTC); literals
 * are read under it.  canonical, when not NULL, receives the canonical text
 * of an expression over cdp.events' columns.
 */
extern Expr *CdpTransformIn(Node *raw, const char *text, CdpColumnResolver resolver,
							void *arg, Oid target_type, const char *what,
							const char *timezone, char **canonical);

/* ---- nearest.c: hints ---- */

typedef struct CdpNearest
{
	const char *wanted;
	const char *found;			/* NULL: nothing is near */
	int			distance;
} CdpNearest;

extern void CdpNearestBegin(CdpNearest *nearest, const char *wanted);
extern void CdpNearestTry(CdpNearest *nearest, const char *name);
/* Is there a function of that name, whatever its arguments? */
extern bool CdpFunctionExists(List *name);
/* Try the names of the server's functions, but volatile ones. */
extern void CdpNearestTryFunctions(CdpNearest *nearest);
/*
 * The settings under which definitions are read and evaluated; returns the
 * GUC nest level for CdpUnpinSettings.  Evaluation needs them only when
 * CdpNeedsSettings says so.
 */
extern int	CdpPinSettings(const char *timezone);
extern void CdpUnpinSettings(int nest_level);
extern bool CdpNeedsSettings(Expr *expr);
/* Resolver for the columns of cdp.events: Vars over CdpEntry.values. */
extern Node *CdpEntryColumn(void *arg, const char *name, int location);
/* Canonical text of an expression over cdp.events' columns. */
extern char *CdpDeparseEntryExpression(Expr *expr);

/*
 * Define a hidden trait (a behaviour term) or find the one that says the same:
 * count of event with filter within window.  With a key it looks at identify
 * calls instead, or (CDP_AGG_LAST) at entries that name the account.  Returns its id; *created tells whether it is new (then the
 * caller hands it to CdpBackfillHook).
 */
extern int32 CdpHiddenTrait(CdpAggregate aggregate, const char *key, const char *event,
							const char *value, const char *filter, const char *within, const char *timezone,
							bool *created);
/*
 * The same of accounts: how many of the members there are for whom the filter
 * (NULL: whatever he is like) is true, or who are in a segment (0: none).  *read:
 * ids of the traits of profiles in the filter.
 */
extern int32 CdpHiddenOverMembers(const char *filter, int32 segment, const char *timezone,
								  bool *created, List **read);
/*
 * Traits for a read, which may not write definitions.  CdpHiddenTraitFind finds
 * the hidden trait that says the same, or returns 0 and a definition that is
 * nowhere stored; CdpTransientDeclared gives the one that CdpTraitResolve would
 * store, NULL when nothing of that name was ever seen.  CdpTraitSetWith makes
 * a set of the stored definitions and of such ones, whose ids count up from
 * CDP_TRANSIENT_TRAIT; it lives in a memory context of its own, set->context,
 * below the current one, and refers to the definitions given.
 */
struct CdpDefinition;
#define CDP_TRANSIENT_TRAIT		(INT32_MAX / 2)
extern int32 CdpHiddenTraitFind(CdpAggregate aggregate, const char *key, const char *event,
								const char *value, const char *filter,
								const char *within, const char *timezone, struct CdpDefinition **transient);
extern struct CdpDefinition *CdpTransientDeclared(const char *name);
extern Oid	CdpTransientType(const struct CdpDefinition *definition);
/* The key of identify calls that a declared trait stands for; NULL for others. */
extern const char *CdpDeclaredKey(const CdpTrait *trait);
extern const char *CdpTransientKey(const struct CdpDefinition *definition);
extern CdpTraitSet *CdpTraitSetWith(int64 generation, List *transient);
/* An expression's text with the column "from" called "to". */
extern char *CdpRenameColumn(const char *expression, const char *from, const char *to);
/* Say that definition (kind, id) reads exactly these traits (ids). */
extern void CdpDependsSet(const char *kind, int32 id, const List *trait_ids);
/* Delete hidden traits that nothing depends on any more. */
extern void CdpHiddenTraitsPrune(void);

#endif							/* CDP_TRAITS_H */
