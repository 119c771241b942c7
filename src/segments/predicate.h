/*-------------------------------------------------------------------------
 *
 * predicate.h
 *	  Private to src/segments: compiled predicates and what the files of the
 *	  station share.
 *
 *	  A compiled predicate reads two rows.  Var (1, n) is the value of the
 *	  trait with index n - 1.  Var (INNER_VAR, n) is whether the profile is in
 *	  the segment in column n - 1 of the set; segments are evaluated in an
 *	  order in which a segment follows those that it refers to.
 *
 * IDENTIFICATION
 *	  src/segments/predicate.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_PREDICATE_H
#define CDP_PREDICATE_H

#include "postgres.h"

#include "nodes/execnodes.h"
#include "nodes/primnodes.h"
#include "utils/jsonb.h"

#include "segments/segments.h"

/* Longest name of a segment; with its prefix a channel is 63 bytes at most. */
#define CDP_SEGMENT_NAME_MAX	51
#define CDP_SEGMENT_CHANNEL		"cdp_segment_"

StaticAssertDecl(CDP_SEGMENT_NAME_MAX + sizeof(CDP_SEGMENT_CHANNEL) <= NAMEDATALEN,
				 "a channel must fit in a name");

/* ---- vocabulary.c: did(), count_of(), in_segment() … ---- */

typedef enum CdpTermKind
{
	CDP_TERM_COUNT,				/* a hidden trait: how often did it happen */
	CDP_TERM_SEGMENT			/* membership in another segment */
} CdpTermKind;

/* A vocabulary call, in the order in which the calls stand in the tree. */
typedef struct CdpTerm
{
	CdpTermKind kind;
	char	   *word;			/* as written: did, did_not, count_of, in_segment */
	int			location;		/* of the call in the text */
	int			name_location;	/* of the constant that names event or segment */
	char	   *name;			/* event or segment */
	char	   *within;			/* NULL: ever */
	char	   *filter;			/* canonical; NULL: none, or not asked for */
	int32		id;				/* hidden trait or segment */
} CdpTerm;

/*
 * Replaces every vocabulary call in a raw tree by an expression over hidden
 * columns and returns the terms.  The columns are numbered like the terms
 * from 0; CdpHiddenColumn tells whether a column name is one.  With
 * timezone = NULL the filters are passed over, not checked and not
 * canonicalised.
 */
extern List *CdpVocabularyReplace(Node *raw, const char *text, const char *timezone);
extern int	CdpHiddenColumn(const char *name);
extern char *CdpTermText(const CdpTerm *term);
extern int	CdpPredicateErrorPosition(const char *text, int location);

/* ---- predicate.c: text to expression ---- */

typedef struct CdpPredicate
{
	Expr	   *expr;			/* NULL when the text is NULL */
	Bitmapset  *traits;			/* indexes of the traits that it reads */
	Bitmapset  *segments;		/* columns of the segments that it refers to */
	bool		pinned;			/* depends on TimeZone, DateStyle … */
	bool		safe;			/* cannot raise an error, whatever the values */
} CdpPredicate;

/* What a definition's texts refer to, as stored beside them. */
typedef struct CdpReferences
{
	int			nterms;
	int32	   *terms;			/* ids of hidden traits and segments, by term */
	int			nnames;
	char	  **names;			/* column names in the text … */
	int32	   *traits;			/* … and the ids of the traits that they meant */
	List	   *trait_ids;		/* all traits, hidden ones too; only when defining */
	List	   *segment_ids;	/* segments referred to; only when defining */
} CdpReferences;

/*
 * Check a new text and make the traits that it needs.  Adds to references and
 * to *created (ids of traits that are new).
 */
extern void CdpPredicateDefine(const char *text, const char *timezone, const char *what,
							   CdpReferences *references, List **created);

/*
 * Compile a text whose references are known, starting with term *next_term,
 * which is advanced.  columns: ids of the set's segments by column.
 */
extern void CdpPredicateCompile(const char *text, const char *timezone, const char *what,
								const CdpReferences *references, int *next_term,
								CdpTraitSet *traits, const int32 *columns, int ncolumns,
								CdpPredicate *out);

/* ---- set.c: all definitions of a generation ---- */

struct CdpSegmentRules
{
	int			column;			/* position among all segments of the set */
	char	   *owner;			/* role name */
	char	   *timezone;
	char	   *predicate_text;
	char	   *exit_text;
	CdpReferences references;
	CdpPredicate predicate;
	CdpPredicate exit_when;

	/* evaluate.c */
	Oid			owner_oid;		/* whose expression states these are */
	MemoryContext state_context;
	Oid			role;			/* owner at the last look */
	ExprState  *predicate_state;	/* NULL: not initialised */
	ExprState  *exit_state;
	bool		warned;			/* of a missing owner */
};
typedef struct CdpSegmentRules CdpSegmentRules;

/*
 * All segments, disabled and broken ones too: those keep the memberships that
 * they have and can be referred to.
 */
struct CdpSegmentColumns
{
	int			n;
	int32	   *ids;			/* by column, ascending */
	char	  **names;			/* by column */
	int		   *position;		/* by column: in set->segments; -1: not evaluated */
	char	  **broken;			/* by column: why it could not be compiled, or NULL */
	bool		told;			/* broken ones are recorded */
	TupleDesc	trait_desc;
	TupleDesc	member_desc;
	TupleTableSlot *trait_slot;
	TupleTableSlot *member_slot;
	ExprContext *econtext;
};
typedef struct CdpSegmentColumns CdpSegmentColumns;

/* ---- definition.c: rows of cdp.segment_definitions ---- */

/* A definition as written. */
typedef struct CdpSegmentDefinition
{
	int32		id;				/* 0: not stored yet */
	char	   *name;
	char	   *predicate;
	char	   *exit_when;		/* NULL: none */
	char	   *timezone;
	char	   *description;	/* NULL: none */
	Jsonb	   *options;
	char	   *owner;
	bool		enabled;
} CdpSegmentDefinition;

extern bool CdpSegmentDefinitionRead(const char *name, CdpSegmentDefinition *out);
extern void CdpSegmentDefinitionWrite(CdpSegmentDefinition *definition,
									  const CdpReferences *references);
/* Refuse a definition that would refer to itself. */
extern void CdpSegmentCycleCheck(const CdpSegmentDefinition *definition,
								 const CdpReferences *references);
/* A segment's id first, then those of all that refer to it, directly or not. */
extern List *CdpSegmentDependents(int32 id);
/* Enabled segments whose members may change with a trait. */
extern List *CdpSegmentsOfTrait(int32 trait_id);
/*
 * Run a statement with a segment's id as $1 and, when not NULL, a text as $2;
 * the number of rows.
 */
extern uint64 CdpSegmentsExecute(const char *sql, int32 id, const char *string);

/* ---- evaluate.c ---- */

/*
 * Value of one initialised expression for one profile, as the current user.
 * member: by column; never_null: as many falses.
 */
extern bool CdpPredicateValue(CdpSegmentSet *set, ExprState *state,
							  const CdpProfileValues *values, Datum *member,
							  bool *never_null, bool *isnull);

/* Errors that concern one predicate only; others must be raised again. */
extern bool CdpErrorIsLocal(int sqlerrcode);

#endif							/* CDP_PREDICATE_H */
