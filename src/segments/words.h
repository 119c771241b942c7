/*-------------------------------------------------------------------------
 *
 * words.h
 *	  Private to vocabulary.c and words.c: the calls of the vocabulary and
 *	  their arguments.
 *
 * IDENTIFICATION
 *	  src/segments/words.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_WORDS_H
#define CDP_WORDS_H

#include "nodes/parsenodes.h"
#include "segments/predicate.h"

/* An argument of a vocabulary call. */
typedef struct CdpWordArgument
{
	const char *name;
	Node	   *value;			/* NULL: not given */
	int			location;
} CdpWordArgument;

/*
 * Distribute the arguments of a call to those that its word takes; the first
 * npositional of them may go without their names.  The first nrequired ones
 * must be there.
 */
extern void CdpWordArguments(const FuncCall *call, const char *word, const char *text,
							 CdpWordArgument *wanted, int nwanted,
							 int npositional, int nrequired);
/* A string constant; NULL when the argument is not given. */
extern char *CdpWordString(const char *word, const CdpWordArgument *arg, const char *text);
/* The same, not empty. */
extern char *CdpWordName(const char *word, const CdpWordArgument *arg, const char *text);
/* A number of times. */
extern int	CdpWordCount(const char *word, const CdpWordArgument *arg, const char *text,
						 int missing);
/* A length of time in its canonical text. */
extern char *CdpWordInterval(const char *word, const CdpWordArgument *arg, const char *text);
/* From when to when a behaviour is looked for. */
typedef struct CdpWordWindow
{
	char	   *newer;			/* NULL: ever */
	char	   *older;			/* NULL: until now */
} CdpWordWindow;

extern CdpWordWindow CdpWordWindowOf(const char *word, const CdpWordArgument *within,
									 const CdpWordArgument *newer_than,
									 const CdpWordArgument *older_than, const char *text);
/*
 * An expression over an entry's columns in its canonical text; type
 * InvalidOid: any.  timezone NULL: only a look at its form.
 */
extern char *CdpWordExpression(const char *word, const CdpWordArgument *arg, const char *text,
							   Oid type, const char *timezone);

/* parse nodes: a column, left operator right, an integer */
extern Node *CdpColumnNode(char *name, int location);
extern Node *CdpOperationNode(const char *operator, Node *left, Node *right, int location);
extern Node *CdpNumberNode(int number);

#endif							/* CDP_WORDS_H */
